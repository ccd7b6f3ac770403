"""What a run notes about its model when it begins, for model folders and their cards."""

from pathlib import Path

from speechbrain.utils.distributed import main_process_only

from ..models.run_folder import RUN_MODEL, read_run, write_run
from ..recognition.recogniser import SEARCH
from .description import ENCODER, describe
from .environment import git_revision
from .learnt import CODES
from .yaml_files import Hparams


@main_process_only
def record_phase(folder, counter, phase, init, hparams, manifest):
    """Note a phase of pre-training.

    Arguments
    ---------
    folder : Path
        Of the phase.
    counter : EpochCounter
        SpeechBrain's, which has the number of epochs.
    phase : Phase
        Its settings.
    init : str, Path or None
        The folder that it starts from.
    hparams : dict
        As for :func:`rounds.run_phases`.
    manifest : Manifest
        Of its data; None if it has none.
    """
    modules, rate = hparams["modules"], hparams.get("sample_rate")
    settings = {"epochs": counter.limit, "learning rate": phase.lr}
    if phase.local_steps:
        settings["local steps"] = phase.local_steps
        settings["local learning rate"] = phase.local_lr
    if "brain_class" in hparams:
        objective = hparams["brain_class"].__name__.removesuffix("Brain")
        settings = {"objective": objective, **settings}
    if "codebook_size" in hparams:
        settings[CODES] = hparams["codebook_size"]
    kept = {key: modules[key] for key in ENCODER if key in modules}
    facts = common_facts(kept, hparams, manifest, init)
    facts |= {"kind": "encoder", "title": phase.name, "settings": settings}
    write_record(hparams)
    write_run(folder, describe(modules, rate), counter.limit, None, facts)


@main_process_only
def record_finetuning(folder, counter, modules, tokenizer, hparams, manifest):
    """Note a fine-tuning run.

    Arguments
    ---------
    folder : Path
        Of the run.
    counter
        As for :func:`record_phase`.
    modules : dict
        Of the recogniser.
    tokenizer : sentencepiece.SentencePieceProcessor
        Of the recogniser.
    hparams : dict
        As for :func:`finetuning.finetune`.
    manifest
        As for :func:`record_phase`.
    """
    search = {key: hparams[key] for key in SEARCH if key in hparams}
    kind = "CTC and attention" if "decoder" in modules else "CTC"
    title = f"{kind}, {', '.join(manifest.domains)}"
    facts = common_facts(modules, hparams, manifest, hparams["pretrained"])
    settings = {"epochs": counter.limit}
    if hparams["freeze_encoder_iterations"] == float("inf"):
        settings["encoder"] = "frozen"
    if hparams.get("lm"):  # which a model folder does not hold
        settings["evaluated with the language model"] = Path(hparams["lm"]).name
    facts |= {"kind": kind, "title": title, "settings": settings}
    description = describe(modules, hparams["sample_rate"], search, tokenizer)
    write_record(hparams)
    write_run(folder, description, counter.limit, "CER", facts)


def write_record(hparams):
    """Write the record of a command line; ``hparams`` made otherwise have none."""
    if isinstance(hparams, Hparams):
        hparams.write_record()


def common_facts(modules, hparams, manifest, start):
    """What the card of any run says; see :func:`model_card.model_card`.

    Arguments
    ---------
    modules : dict
        Whose parameters are counted.
    hparams, manifest
        As above.
    start : str, Path or None
        What the run starts from.
    """
    if start is not None:
        path = Path(start)
        path = path.parent if path.name == "model" else path
        recorded = (path / RUN_MODEL).exists()
        start = read_run(path)["facts"] if recorded else Path(start).name
    return {
        "sample_rate": hparams.get("sample_rate"),
        "parameters": sum(p.numel() for m in modules.values() for p in m.parameters()),
        "hours": {} if manifest is None else hours(manifest),
        "seed": hparams["seed"],
        "commit": git_revision(),
        "start": start,
    }


def hours(manifest):
    """Domain → hours of audio."""
    return {
        name: float(manifest.duration[manifest.domain == i].sum()) / 3600
        for i, name in enumerate(manifest.domains)
    }
