"""From the releases of corpora to global batches.

``corpora/`` reads releases, ``manifest`` holds what a prepare script makes of them,
``plan`` says which utterances form which global batch, ``audio`` reads them, and
``loaders`` and ``workers`` bring them to ``fit_batch``.
"""
