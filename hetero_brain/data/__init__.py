"""From the releases of corpora to the global batches that ``fit_batch`` takes.

``corpora/`` reads releases, and ``manifest/`` the CSV files that prepare scripts write.
``splits`` selects the rows that a run uses. ``plan`` says which rows form global batch t:
``domain_sampling`` draws its domains, and ``bucketing`` cuts a domain into batches of
similar length. ``audio`` and ``containers`` read audio files, ``datasets`` collates
padded batches, and ``loaders`` delivers them. ``audited_loader`` counts the recordings
that cannot be used, and ``workers`` manages the processes that read them.
"""

__all__ = [
    "audio",
    "audited_loader",
    "bucketing",
    "containers",
    "corpora",
    "datasets",
    "domain_sampling",
    "loaders",
    "manifest",
    "plan",
    "plan_checks",
    "splits",
    "workers",
]
