"""The few corpora that lhotse's general way does not fit, in one table: ``SPECIAL``.

Each case says what to check before, what to put in the place of the reader's own helpers
(``pairing``, ``ami_meetings``) and what folder to give it (``tidy_copies``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from lhotse.recipes import switchboard

from .ami_meetings import ami_patches
from .pairing import (
    broadcast_news_patches,
    fisher_english_patches,
    l2_arctic_patches,
    switchboard_patches,
    switchboard_speaker,
    tedlium_faults,
    tedlium_patches,
)
from .tidy_copies import (
    edacc_faults,
    edacc_folder,
    edacc_patches,
    voxpopuli_faults,
    voxpopuli_folder,
    voxpopuli_patches,
)


@dataclass(frozen=True)
class Special:
    """How one corpus differs.

    Attributes
    ----------
    packages : dict
        {module that its reader imports: how pip calls it}.
    required : dict
        {option without which the reader would download: where to get it}.
    faults : Callable
        (folder, options) → list of str: what is missing in the folder.
    patches : Callable
        (call, folder, options) → {name in the reader's module: replacement}.
    folder : Callable
        (call, folder, scratch folder, options) → the folder to give to the reader.
    speaker : Callable
        (supervision) → speaker, where the reader's is wrong.
    output_dir : bool
        Whether it needs the scratch folder as its optional ``output_dir``.
    """

    packages: dict = field(default_factory=dict)
    required: dict = field(default_factory=dict)
    faults: Callable = lambda folder, options: []
    patches: Callable = lambda call, folder, options: {}
    folder: Callable = lambda call, folder, scratch, options: folder
    speaker: Callable = lambda supervision: supervision.speaker
    output_dir: bool = False


SWITCHBOARD_TEXT = (
    f"the ISIP transcripts (swb_ms98_transcriptions), {switchboard.SWBD_TEXT_URL}"
)
SPECIAL = {
    "ami": Special(patches=ami_patches),
    "broadcast_news": Special(
        packages={"bs4": "beautifulsoup4"}, patches=broadcast_news_patches
    ),
    "callhome_english": Special(
        required={"transcript_dir": "LDC97T14, the transcripts of CallHome"}
    ),
    "edacc": Special(
        packages={"pandas": "pandas"},
        faults=edacc_faults,
        patches=edacc_patches,
        folder=edacc_folder,
    ),
    "fisher_english": Special(patches=fisher_english_patches),
    "l2_arctic": Special(patches=l2_arctic_patches),
    "switchboard": Special(
        required={"transcripts_dir": SWITCHBOARD_TEXT},
        patches=switchboard_patches,
        speaker=switchboard_speaker,
    ),
    "tedlium": Special(patches=tedlium_patches, faults=tedlium_faults),
    "tedlium2": Special(
        patches=tedlium_patches, faults=partial(tedlium_faults, corpus="tedlium2")
    ),
    "voxpopuli": Special(
        faults=voxpopuli_faults,
        patches=voxpopuli_patches,
        folder=voxpopuli_folder,
        output_dir=True,
    ),
}
