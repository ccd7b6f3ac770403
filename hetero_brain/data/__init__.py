"""From the releases of corpora to the global batches that ``fit_batch`` takes.

``corpora/`` reads releases, and ``manifest/`` the CSV files that prepare scripts write.
``splits`` selects the rows that a run uses. ``plan`` says which rows form global batch t:
``domain_sampling`` draws its domains, and ``bucketing`` cuts a domain into batches of
similar length. ``audio``, ``containers`` and ``decoders`` read audio files,
with ``faults`` as reasons where they cannot; ``resampling`` changes their rate,
``datasets`` collates padded batches, which ``augmentation`` may change, and ``loaders``
delivers them. ``audited_loader`` counts the recordings that cannot be used.
``domain_loader`` makes global batches of SpeechBrain's own datasets, by the domain of
each row (``domain_rows``); ``loading_brain`` has ``fit`` call it. ``worker_loader`` is
below all loaders, ``workers`` manages the processes that read, and ``packed`` is how
these send batches.
A trained model takes ``recordings`` of any length, by ``streaming``, with ``progress``.
"""

__all__ = [
    "audio",
    "audited_loader",
    "augmentation",
    "bucketing",
    "containers",
    "corpora",
    "datasets",
    "decoders",
    "domain_loader",
    "domain_rows",
    "domain_sampling",
    "faults",
    "loaders",
    "loading_brain",
    "manifest",
    "packed",
    "plan",
    "plan_checks",
    "progress",
    "recordings",
    "resampling",
    "splits",
    "streaming",
    "worker_loader",
    "workers",
]
