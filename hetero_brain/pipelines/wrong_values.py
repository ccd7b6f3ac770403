"""What is wrong in the values of a recipe, said before anything is prepared."""

import torch
from torch import nn

from ..data.augmentation import refuse_orders
from ..data.domain_sampling import SAMPLINGS
from ..data.manifest.reading import PLAUSIBLE
from ..data.splits import SPLITS
from ..errors import InputError, meant
from ..recognition.search import check_search
from ..training.settings import (
    BEAM_SIZE,
    BRAIN_SETTINGS,
    COUNT,
    PHASE_SETTINGS,
    PIPELINE_SETTINGS,
    RUN_SETTINGS,
    SHARE,
    in_words,
    is_count,
    is_number,
    is_positive,
    one_of,
    wrong_values,
)

BACKENDS = ("nccl", "gloo", "mpi")  # of torch.distributed, as SpeechBrain takes them


def are_splits(value):
    """Whether ``value`` is a list of :data:`SPLITS`."""
    return isinstance(value, (list, tuple)) and {*value} <= {*SPLITS}


def are_speeds(value):
    """Whether ``value`` is a list of speeds, of which one is drawn."""
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    return is_list and all(map(is_positive, value))


def is_plain(value):
    """Whether ``value`` is a number or text, or a list of those."""
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, PLAIN) for item in items)


FACTORY = (None, callable, "a class or factory, such as !name:torch.optim.AdamW")
FROM_0 = (None, lambda v: is_number(v, 0), "a number ≥ 0")
SECONDS = (None, is_positive, "a number above 0 (seconds)")
PLAIN = (str, int, float, type(None))  # bool is an int
SETTINGS = {
    **PHASE_SETTINGS,
    **{
        f"{kind}_{key}": PHASE_SETTINGS[key]
        for kind in ("cssl", "ptloc")
        for key in ("epochs", "hold_epochs", "lr")
    },
    **BRAIN_SETTINGS,
    **RUN_SETTINGS,
    **PIPELINE_SETTINGS,
    "augment": (None, lambda v: v is None or callable(v), "a module, or null"),
    "beam_size": BEAM_SIZE,
    "brain_class": FACTORY,
    "ckpt_interval_minutes": FROM_0,
    "codebook_size": COUNT,
    "ctc_weight": SHARE,
    "decoder": FACTORY,
    "domain_sampling": one_of(*SAMPLINGS),
    "dropout": SHARE,
    "domains_per_iteration": (
        None,
        lambda v: v is None or is_count(v, 1),
        "an integer ≥ 1, or null (all)",
    ),
    "encoder_lr": (
        None,
        lambda v: v is None or is_number(v, 0),
        "a number ≥ 0, or null",
    ),
    "eval_batch_seconds": SECONDS,
    "eval_splits": (None, are_splits, f"a list of {', '.join(SPLITS)}"),
    "freeze_encoder_iterations": FROM_0,
    "global_batch_seconds": SECONDS,
    "keep_last": (2, lambda v: is_count(v, 2), "an integer ≥ 2 (checkpoints)"),
    "label_smoothing": SHARE,
    "mask_prob": SHARE,
    "mask_span": COUNT,
    "max_grad_norm": FROM_0,
    "max_utterance_seconds": SECONDS,
    "milestone_interval": (0, is_count, "an integer ≥ 0 (epochs; 0: none)"),
    "n_codebooks": COUNT,
    "n_mels": COUNT,
    "n_negatives": COUNT,
    "n_rounds": COUNT,
    "num_workers": (0, is_count, "an integer ≥ 0 (processes)"),
    "opt_class": FACTORY,
    "precision": one_of("fp32", "bf16", "fp16"),
    "replicas_per_domain": COUNT,
    "sample_rate": (
        None,
        lambda v: is_count(v, PLAUSIBLE[0]) and v <= PLAUSIBLE[1],
        "a sample rate in Hz, such as 16000",
    ),
    "search_ctc_weight": SHARE,
    "speed_changes": (None, are_speeds, "a list of speeds above 0, in per cent"),
    "stack": COUNT,
    "temperature": (1.0, is_positive, "a number above 0"),
    "unit": one_of("char", "unigram", "bpe"),
    "vocab_size": COUNT,
    "wav_augment": (None, lambda v: v is None or callable(v), "an Augmenter, or null"),
}


def refuse_wrong_scalars(tree, run_opts):
    """Check the numbers and texts of a YAML, and lists of them, before objects are built
    from them, and SpeechBrain's options.

    Arguments
    ---------
    tree : CommentedMap
        From :func:`yaml_files.resolve`.
    run_opts : RunOptions
        SpeechBrain's.

    Raises
    ------
    InputError
        As :func:`refuse_wrong_values` does.
    """
    plain = {
        key: value
        for key, value in tree.items()
        # HyperPyYAML takes a string in parentheses for a tuple.
        if is_plain(value) and not str(value).startswith("(")
    }
    if problems := [*wrong_values(plain, SETTINGS), *wrong_options(run_opts, plain)]:
        raise InputError(in_words(problems))


def refuse_wrong_values(hparams):
    """Check what else can be checked without data, objects and how values go together.
    Keys that a YAML lacks are not checked.

    Arguments
    ---------
    hparams : dict
        Of a recipe.

    Raises
    ------
    InputError
        Lists everything that is wrong, by key.
    """
    problems = [
        *wrong_values(hparams, SETTINGS),
        *wrong_modules(hparams),
        *wrong_combinations(hparams),
    ]
    if problems:
        raise InputError(in_words(problems))


def wrong_modules(hparams):
    """A sentence for each of ``modules`` that is none."""
    for name, module in hparams.get("modules", {}).items():
        if not isinstance(module, nn.Module):
            yield f"{name}: {module!r} is not a module, such as !new:torch.nn.Identity"


def wrong_combinations(hparams):
    """A sentence for each value that does not go with the others."""
    if "decoder" in hparams and hparams["beam_size"] is None:
        yield "beam_size: None is for CTC alone; a decoder needs one, such as 10"
    if hparams.get("labels") == "teacher" and "targets" not in hparams["modules"]:
        yield "labels: 'teacher' needs a public model (key source), as in hubert.yaml"
    encoder = hparams.get("modules", {}).get("encoder")
    try:
        refuse_orders(hparams.get("wav_augment"))
        if hparams.get("mask_prob") and hasattr(encoder, "mask_embedding"):
            encoder.mask_embedding()
        wanted_phases(hparams.get("phases", ()), hparams.get("only_phases"))
        if "lm" in hparams:
            check_search(hparams["beam_size"], hparams["lm"])
    except InputError as error:
        yield str(error)


def wanted_phases(phases, only_phases):
    """The phases whose names are in ``only_phases``, or all if that is empty.

    Raises
    ------
    InputError
        There is no phase of a name.
    """
    names = [phase.name for phase in phases]
    if unknown := sorted(set(only_phases or ()) - {*names}):
        near = meant(unknown, names)
        raise InputError(f"only_phases: no phase {unknown} among {names}{near}")
    return [p for p in phases if not only_phases or p.name in only_phases]


def wrong_options(run_opts, chosen):
    """A sentence for each of SpeechBrain's options that cannot be; ``chosen`` are the
    values of the YAML, which has some of them as its keys."""
    given = {key: run_opts[key] for key in run_opts.overridden_args}
    yield from wrong_values(given, SETTINGS)
    on_cpu = not torch.cuda.is_available() or run_opts["device"] == "cpu"
    for key in ("precision", "eval_precision"):
        if on_cpu and "fp16" in (given.get(key), chosen.get(key)):
            yield f"{key}: fp16 needs a GPU; on CPUs there are fp32 and bf16"
    name, backend = run_opts["device"], run_opts["distributed_backend"]
    try:  # None: SpeechBrain finds one
        if torch.device(name or "cpu").type == "cuda" and not torch.cuda.is_available():
            yield f"--device {name}: PyTorch finds no such GPU here"
    except RuntimeError:
        yield f"--device {name}: not a device; there are cpu, cuda, cuda:0, …"
    if backend not in BACKENDS:
        yield f"--distributed_backend {backend}: there are {', '.join(BACKENDS)}"
