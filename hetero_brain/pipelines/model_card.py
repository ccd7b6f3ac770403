"""The model card of a model folder: what it is, what it learnt from, how to use it."""

import json

from ..recognition.error_rates import describe
from .tables import plain

CARD = """---
library_name: speechbrain
tags: [speech, {tag}]
license: unknown
---
# {title}

{lead}

- Licence: to be filled in here, and in the header, by whoever publishes this model. It
  depends on the corpora below.
- Weights: of {source}
{facts}
{results}
## Use

With `hetero_brain` installed, on the command line (`--help` says more) and in Python:

    {command}

```python
{python}
```

`hetero_brain` runs no code that a model folder names, except its own.

With SpeechBrain's own interface, which runs whatever the `hyperparams.yaml` of its source
names:

```python
{speechbrain}
```

In the YAML of a SpeechBrain recipe, where it takes (wavs, wav_lens) and gives (encoded,
lengths, layers):

    encoder: !apply:hetero_brain.load_encoder {{folder: {name}, freeze: False}}

To fine-tune it: `--pretrained {name}` for any `finetune/train.py` of hetero_brain's
recipes. To publish it: `hf upload USER/NAME {name}`.
"""
TRANSCRIBE = "python -m hetero_brain transcribe {name} speech.wav"
FEATURES = "python -m hetero_brain features {name} speech.wav --output features"
OWN = """import hetero_brain
encoder = hetero_brain.load_encoder("{name}")  # takes {rate} Hz
encoded, lengths, layers = encoder(wavs, wav_lens)"""
RECOGNISER = """from hetero_brain.recognition.recogniser import load_recogniser
recogniser = load_recogniser("{name}")  # takes {rate} Hz
texts = recogniser.transcribe(wavs, wav_lens)"""
THEIRS = """from speechbrain.inference.{module} import {interface}
model = {interface}.from_hparams(source="{name}")
{call}"""
INTERFACES = {
    "encoder": ("encoders", "WaveformEncoder", 'model.encode_file("speech.wav")'),
    "CTC": ("ASR", "EncoderASR", 'model.transcribe_file("speech.wav")'),
    "CTC and attention": (
        "ASR",
        "EncoderDecoderASR",
        'model.transcribe_file("speech.wav")',
    ),
}


def model_card(facts, source, results, name):
    """A model card as Markdown.

    Arguments
    ---------
    facts : dict
        From a run: ``kind`` (encoder, CTC, or CTC and attention), ``title``,
        ``sample_rate`` (Hz), ``parameters``, ``hours`` (domain → hours of audio),
        ``settings`` (name → value), ``seed``, ``commit``, and ``start``: the facts of
        the run that it started from, its name, or None.
    source : str
        Which checkpoint, and how far its run was.
    results : list of Path
        ``<split>.json`` files of its evaluation.
    name : str
        Of the folder.

    Returns
    -------
    str
    """
    recognises = facts["kind"] != "encoder"
    own = RECOGNISER if recognises else OWN
    module, interface, call = INTERFACES[facts["kind"]]
    return CARD.format(
        tag="automatic-speech-recognition" if recognises else "feature-extraction",
        title=facts["title"],
        lead=lead(facts),
        source=source,
        facts="\n".join(history(facts)),
        results=error_rates(results) if recognises else "",
        command=(TRANSCRIBE if recognises else FEATURES).format(name=name),
        python=own.format(name=name, rate=facts["sample_rate"]),
        speechbrain=THEIRS.format(
            module=module, interface=interface, name=name, call=call
        ),
        name=name,
    )


def lead(facts):
    """What the model is, in a sentence."""
    what = {
        "encoder": "A speech encoder, pre-trained without labels",
        "CTC": "A speech recogniser, trained with CTC",
        "CTC and attention": "A speech recogniser, trained with CTC and attention",
    }[facts["kind"]]
    millions, rate = facts["parameters"] / 1e6, facts["sample_rate"]
    return f"{what} by hetero_brain: {plain(millions)} M parameters, {rate} Hz."


def history(facts):
    """Lines on each run, the first one first."""
    start = facts.get("start")
    if isinstance(start, dict):
        yield from history(start)
    elif start:
        yield f"- Started from: {start}"
    hours = ", ".join(f"{domain} {plain(h)} h" for domain, h in facts["hours"].items())
    settings = ", ".join(f"{key} {value}" for key, value in facts["settings"].items())
    yield (
        f"- {facts['title']}: on {hours or 'data without a manifest'}; {settings}; seed "
        f"{facts['seed']}; commit {facts['commit']}"
    )


def error_rates(results):
    """The error rates with their intervals, as a section."""
    if not results:
        return "\n## Error rates\n\nThese weights were not evaluated.\n"
    lines = ["", "## Error rates", "", "In brackets: 95 % bootstrap intervals.", ""]
    for path in results:
        for line in describe(json.loads(path.read_text("utf-8"))).splitlines():
            lines.append(f"- {path.stem}: {line}")
    return "\n".join([*lines, ""])
