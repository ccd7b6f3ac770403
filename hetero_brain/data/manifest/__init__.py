"""The manifest: one CSV file per split, in SpeechBrain's own format.

====================  =====================================================
column                holds
====================  =====================================================
``ID``                a name, unique in the file
``duration``          seconds
``wav``               path of the audio file; may hold ``{data_root}``
``start``, ``stop``   samples; both empty for a whole file
``domain``            the source: a corpus, a condition, a language
``spk_id``            the speaker, or empty
``wrd``               the transcript; empty for unlabelled speech
``channel``           optional column: which channel of a multi-channel file
                      to read, counted from 0; empty for the average of all
====================  =====================================================

Columns may be in any order, and a file may have further ones. A row takes up exactly
one line, so no field may contain a line break. ``DynamicItemDataset.from_csv`` reads
these files too; its own placeholder is ``$name``, so it leaves ``{data_root}`` alone.
"""

from .csv_format import COLUMNS, OPTIONAL_COLUMNS
from .errors import ManifestError
from .reading import first_look, read
from .table import Manifest
from .writing import write, write_if_any

__all__ = [
    "COLUMNS",
    "OPTIONAL_COLUMNS",
    "Manifest",
    "ManifestError",
    "first_look",
    "read",
    "write",
    "write_if_any",
]
