"""The few corpora that need more than lhotse's readers offer, in one table: ``SPECIAL``.

Each entry says what to check before reading, what to use in place of the reader's own
helpers (``pairing``, ``ami_meetings``) and which folder to give to the reader
(``tidy_copies``).
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
    tedlium_patches,
    tedlium_problems,
)
from .tidy_copies import (
    edacc_folder,
    edacc_patches,
    edacc_problems,
    voxpopuli_folder,
    voxpopuli_patches,
    voxpopuli_problems,
)


@dataclass(frozen=True)
class Special:
    """How one corpus differs from the others.

    Attributes
    ----------
    packages : dict
        {module that its reader imports: name of the package for pip}.
    required : dict
        {option without which the reader would download something: where to get it}.
    problems : Callable
        (folder, options) → list of str: what is missing in the folder.
    patches : Callable
        (call, folder, options) → {name in the reader's module: replacement}.
    folder : Callable
        (call, folder, scratch folder, options) → the folder to give to the reader.
    speaker : Callable
        (supervision) → its speaker; set where the reader's speaker is wrong.
    output_dir : bool
        Whether the reader needs its optional argument ``output_dir``; it is then given
        the scratch folder.
    """

    packages: dict = field(default_factory=dict)
    required: dict = field(default_factory=dict)
    problems: Callable = lambda folder, options: []
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
        problems=edacc_problems,
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
    "tedlium": Special(patches=tedlium_patches, problems=tedlium_problems),
    "tedlium2": Special(
        patches=tedlium_patches, problems=partial(tedlium_problems, corpus="tedlium2")
    ),
    "voxpopuli": Special(
        problems=voxpopuli_problems,
        patches=voxpopuli_patches,
        folder=voxpopuli_folder,
        output_dir=True,
    ),
}
