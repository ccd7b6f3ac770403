"""What a run says at its end: what is finished, where it is, and what comes next."""

from pathlib import Path
from shlex import quote

from speechbrain.utils.logger import get_logger

from .tables import aligned

logger = get_logger(__name__)

TRIED = (
    "This was a try with --debug: nothing in {} is a result. Next, the same command "
    "without it"
)


def end_pretraining(hparams, phases, trained, debug=False):
    """Log that phases are finished, and how to fine-tune one of them.

    Arguments
    ---------
    hparams : dict
        As for :func:`~hetero_brain.pipelines.pretraining.pretrain`.
    phases : list of Phase
        Those that are finished.
    trained : sequence of str
        The names of those that this start has trained.
    debug : bool
        Whether it was a try.
    """
    folder = Path(hparams["output_folder"])
    models = [[f"  {p.name}", str(model_of(folder / p.name))] for p in phases]
    told = "Finished, with a model in"
    if not trained:
        told = "All was finished before; nothing was trained now. Models are in"
    lines = [f"{told}:", aligned(models)]
    if debug:
        lines.append(TRIED.format(folder))
    elif command := finetuning_of(hparams, phases):
        lines += ["Next, fine-tune one of them:", command]
    logger.info("\n".join(lines))


def finetuning_of(hparams, phases):
    """The command that fine-tunes the last phase, of PTLOC if there is one, by the recipe
    that a YAML belongs to; empty if there is none."""
    if not hasattr(hparams, "path"):
        return ""
    recipe = Path(hparams.path).absolute().parent.parent.parent
    script = recipe / "finetune/train.py"
    is_public = hasattr(hparams["modules"].get("encoder"), "checkpoint")
    settings = script.parent / "hparams" / f"{'public' if is_public else 'ctc'}.yaml"
    if not (script.is_file() and settings.is_file()):
        return ""
    ptloc = [phase for phase in phases if phase.local_steps]
    words = ["python", *map(shown, (script, settings))]
    words += ["--data_folder", str(hparams["data_folder"])]
    if domains := hparams.get("pretrain_domains"):
        words += ["--finetune_domains", f"[{domains[0]}]"]
    phase = (ptloc or phases)[-1].name
    words += ["--pretrained", str(Path(hparams["output_folder"], phase))]
    return " ".join(word if word.startswith("[") else quote(word) for word in words)


def end_finetuning(folder, rates, debug=False):
    """Log the error rates of a fine-tuning, and how to transcribe with its model.

    Arguments
    ---------
    folder : Path
        Of the run.
    rates : dict
        Split → error rates, in percent.
    debug : bool
        Whether it was a try.
    """
    model = model_of(folder)
    found = [
        f"{split}: CER {figures['CER']:.1f}%, WER {figures['WER']:.1f}%"
        for split, figures in rates.items()
    ]
    lines = [f"Finished, with a model in {model}; {'; '.join(found)}"]
    if debug:
        lines.append(TRIED.format(folder))
    else:
        command = f"python -m hetero_brain transcribe {quote(str(model))} speech.wav"
        lines += ["Next, transcribe with it:", command]
    logger.info("\n".join(lines))


def model_of(folder):
    """The model folder of a run; the run's own if it has none."""
    model = folder / "model"
    return model if model.is_dir() else folder


def shown(path):
    """A path as one types it: from the current folder, where it is below that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
