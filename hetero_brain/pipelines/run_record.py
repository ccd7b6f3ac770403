"""What a run notes about its model when it begins, for model folders and their cards."""

import json
from contextlib import suppress
from pathlib import Path

from speechbrain.utils.distributed import main_process_only

from ..errors import InputError
from ..models.run_folder import (
    RUN_MODEL,
    choose_checkpoint,
    newest,
    progress,
    read_run,
    settled,
    write_run,
)
from ..models.transfer import PUBLIC
from ..recognition.recogniser import SEARCH
from ..training.integrity import FILES
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
    start = origin(folder, init or source_of(modules))
    facts = common_facts(kept, hparams, manifest, start)
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
    start = hparams["pretrained"]
    start = origin(folder, source_of(modules) if start == PUBLIC else start)
    facts = common_facts(modules, hparams, manifest, start)
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
    """Write the record of a command line; ``hparams`` made otherwise have none. The run
    is no longer refused."""
    if isinstance(hparams, Hparams):
        hparams.write_record()
        if hparams.changes is not None:
            hparams.changes.accept()


def common_facts(modules, hparams, manifest, start):
    """What the card of any run says; see :func:`model_card.model_card`.

    Arguments
    ---------
    modules : dict
        Whose parameters are counted.
    hparams, manifest
        As above.
    start : dict, str or None
        From :func:`origin`.
    """
    return {
        "sample_rate": hparams.get("sample_rate"),
        "parameters": sum(p.numel() for m in modules.values() for p in m.parameters()),
        "hours": {} if manifest is None else hours(manifest),
        "seed": hparams["seed"],
        "commit": git_revision(),
        "start": start,
    }


@settled
def origin(folder, start):
    """What a run starts from, for its card: as it was when the run began, whatever has
    become of it since.

    Arguments
    ---------
    folder : Path
        Of the run.
    start : str, Path or None
        The folder of a phase or of a fine-tuning run, a model folder, or a name.

    Returns
    -------
    dict, str or None
        The facts of the run that it starts from, or a name.
    """
    if newest(folder) is not None:  # it has begun before
        with suppress(InputError, KeyError):
            return read_run(folder)["facts"]["start"]
    path = start and Path(start)
    run = path.parent if path and path.name == "model" else path
    if not run or not (run / RUN_MODEL).exists():
        return path and path.name
    record, (epoch, epochs, finished) = read_run(run), progress(run)
    facts = record["facts"]
    if epoch == 0:  # its checkpoints were deleted, and its model folder is what is left
        return facts
    if run != path and not is_model_of(path, choose_checkpoint(run, record["score"])):
        return f"{run.name}/model"  # which its run has gone on from
    if not finished:
        facts["settings"] |= {"epochs": f"{epoch} of {epochs} (unfinished)"}
    return facts


def is_model_of(folder, checkpoint):
    """Whether a model folder is known to have the weights of a checkpoint."""
    listed = [path / FILES for path in (folder, checkpoint)]
    if not all(path.exists() for path in listed):
        return False
    model, saved = (json.loads(path.read_text("utf-8")) for path in listed)
    return all(saved.get(name, file) == file for name, file in model.items())


def source_of(modules):
    """The name of the public checkpoint that an encoder was loaded from, or None."""
    return getattr(getattr(modules.get("encoder"), "checkpoint", None), "source", None)


def hours(manifest):
    """Domain → hours of audio."""
    return {
        name: float(manifest.duration[manifest.domain == i].sum()) / 3600
        for i, name in enumerate(manifest.domains)
    }
