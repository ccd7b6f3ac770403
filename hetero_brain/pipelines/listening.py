"""What a fine-tuned model hears in a recording, beside what was said."""

import json

from ..data import manifest
from ..data.recordings import Recordings
from ..recognition.recogniser import load_recogniser
from ..recognition.transcription import transcribe

LEAST_WORDS = 3  # of what is said


def listen(run, split, data_root):
    """Transcribe a recording of a run's evaluation with the model that it has trained.

    It is the first one in which at least :data:`LEAST_WORDS` words are said, or the first
    of all.

    Arguments
    ---------
    run : Path
        The folder of a fine-tuning run.
    split : str
        ``dev`` or ``test``.
    data_root : str
        The data folder of the recipe.

    Returns
    -------
    str
        Three lines: the recording, what was said, and what was heard.
    """
    results = json.loads((run / f"{split}.json").read_text("utf-8"))
    long = [result for result in results if result["words"] >= LEAST_WORDS]
    result = (long or results)[0]
    rows = manifest.read(run / "manifests" / f"{split}.csv", data_root)
    row = next(row for row in rows if row["ID"] == result["id"])
    ((_, heard),) = transcribe(load_recogniser(run), Recordings([], [row]))
    return f"{row['wav']}\n  said:  {result['reference']}\n  heard: {heard['text']}"
