"""Readers of public corpora, and what prepare scripts have in common.

A prepare script turns folders as they are released into manifests:

- ``lhotse_corpora`` reads the corpora that lhotse knows, into ``segments``. ``lenient``,
  ``text_files``, ``transcript_lines``, ``special_cases``, ``pairing``, ``ami_meetings``
  and ``tidy_copies`` keep damaged files from stopping it.
- ``commonvoice`` and ``commonvoice_*`` read Mozilla Common Voice.
- ``domain_*`` turn the list ``domains`` of a YAML into manifests: they check its entries,
  read the corpora into rows, and select and write the rows.
- ``folders`` finds unlabelled audio, and ``folder_manifests`` writes manifests of it.
- ``headers`` and ``gzip_files`` read single files, ``language_text`` has the words of a
  sentence in any language.
- ``selection`` chooses utterances by hours and by speaker, ``summary`` counts them, and
  ``command_line`` runs the script.
"""

__all__ = [
    "ami_meetings",
    "command_line",
    "commonvoice",
    "commonvoice_clips",
    "commonvoice_rows",
    "commonvoice_tables",
    "domain_entries",
    "domain_reading",
    "domain_rows",
    "domain_selection",
    "folder_manifests",
    "folders",
    "gzip_files",
    "headers",
    "language_text",
    "lenient",
    "lhotse_corpora",
    "pairing",
    "segments",
    "selection",
    "special_cases",
    "summary",
    "text_files",
    "tidy_copies",
    "transcript_lines",
]
