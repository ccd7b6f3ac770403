"""A run that starts from a trained model takes its features and encoder from that."""

from dataclasses import replace
from pathlib import Path

from hyperpyyaml.core import recursive_resolve
from speechbrain.utils.logger import get_logger
from torch import nn

from ..errors import InputError, MissingData
from ..models.model_folder import OwnCode, Undescribed, find_model, open_model
from ..models.model_yaml import write_description
from ..models.recorded import Ref
from ..models.run_folder import settled, unless_deleted
from ..models.speech_encoder import is_public
from ..models.transfer import PUBLIC, find_checkpoint, fit_state
from ..training.fingerprint import FROM, digest_of
from .yaml_files import Text, read_tree, round_trip

logger = get_logger(__name__)

# Arguments of features and encoder that a run may choose anew: they do not change what
# is computed, up to dropout.
FREE = ("dropout", "freeze_front_end", "front_end_gradient", "recomputed")
MODULES = ("features", "encoder")
OWN, PUBLISHED = "models.conformer.make_encoder", "models.public.PublicEncoder"
# What a checkpoint holds besides modules.
NO_MODULES = {"audit", "brain", "counter", "hetero_brain", "local_solver", "optimizer"}
NO_MODULES |= {"encoder_optimizer"}


def adopt(tree, given, path):
    """Replace the architecture in a recipe's YAML by that of its ``pretrained`` model.

    Arguments
    ---------
    tree : CommentedMap
        From :func:`yaml_files.read_tree`; changed, if ``pretrained`` is not null.
    given : sequence of str
        Keys that were given on the command line.
    path : str or Path
        The YAML, for messages.

    Raises
    ------
    InputError
        There is no model; the YAML is for another kind of model, public ones or this
        package's own; or keys that were given contradict it: all of them.
    """
    folder = tree.get("pretrained")
    if tag_of(folder) == "!ref":
        folder = recursive_resolve(folder.value, [], tree)
    ours = tag_of(tree.get("encoder"))
    if folder == PUBLIC and ours.endswith(OWN):
        raise InputError(
            f"pretrained: {PUBLIC} is for YAMLs with a source{others(path, True)}; give "
            "the folder of a phase, or null for random weights"
        )
    if folder in (None, PUBLIC):
        return
    try:
        model = find_model(folder)
    except OwnCode:  # made by the same YAML, it is hoped
        return
    except InputError as error:
        to = f"; a public checkpoint goes to public.yaml, as --source {folder}"
        hint = to if is_public(folder) else ""
        raise InputError(f"pretrained: {error}{hint}") from error
    continues_public = model["encoder"].name.endswith(PUBLISHED)
    if ours.endswith(OWN if continues_public else PUBLISHED):
        kind = "of a public model" if continues_public else "not of a public model"
        raise InputError(
            f"pretrained: {folder} is {kind}, which {Path(path).name} is not for"
            f"{others(path, continues_public)}"
        )
    theirs = architecture(model.values, model.sample_rate)
    refuse(theirs, {key: tree[key] for key in given if key in theirs}, folder)
    if "source" in given:
        refuse_source(tree["source"], model["encoder"].arguments.get("source"), folder)
    if chosen := [key for key in (*MODULES, "input_size") if key in given]:
        raise InputError(f"{', '.join(chosen)}: taken from {folder}; leave them out")
    for key in theirs.keys() & tree.keys():
        tree[key] = Text(theirs[key]) if isinstance(theirs[key], str) else theirs[key]
    calls = {}
    for name in MODULES:
        arguments = {
            key: Ref(key) if key in FREE else value
            for key, value in model[name].arguments.items()
            if key not in FREE or key in tree
        }
        calls[name] = replace(model[name], arguments=arguments)
    tree.update(round_trip().load(write_description(calls)))


def tag_of(node):
    """What a node of a YAML makes, as ``!new:`` names it; empty if it makes nothing."""
    return getattr(getattr(node, "tag", None), "value", None) or ""


def others(path, public):
    """In words: the YAMLs beside one that are for public models, or that are not."""
    names = [
        other.name
        for other in sorted(Path(path).parent.glob("*.yaml"))
        if tag_of(read_tree(other).get("encoder")).endswith(
            PUBLISHED if public else OWN
        )
    ]
    return f": take {' or '.join(names)}" if names else ""


def architecture(calls, sample_rate):
    """Key → plain value of everything that features and encoder are made of.

    Arguments
    ---------
    calls : dict
        ``features`` and ``encoder`` → how they were made, as
        :class:`~hetero_brain.models.recorded.Call`; None if that is not known.
    sample_rate : int
        Of the features, in Hz.

    Returns
    -------
    dict
        Empty if it is not known.
    """
    if not all(calls.get(name) for name in MODULES):
        return {}
    values = {**calls["features"].arguments, **calls["encoder"].arguments}
    derived = ("input_size", "source")  # source: see refuse_source
    values = {k: v for k, v in values.items() if k not in (*FREE, *derived)}
    return {**values, "sample_rate": sample_rate}


def architecture_of(modules, sample_rate):
    """As :func:`architecture`, of the modules themselves."""
    calls = {name: getattr(modules.get(name), "made_by", None) for name in MODULES}
    return architecture(calls, sample_rate)


def refuse(theirs, ours, folder):
    """Raise an InputError if a run has another architecture than its model.

    Arguments
    ---------
    theirs, ours : dict
        Key → value; keys that are not in both are not compared.
    folder : str or Path
        Of the model.
    """
    faults = [
        f"{key}: {theirs[key]} in {folder}, {value} here"
        for key, value in ours.items()
        if key in theirs and theirs[key] != value
    ]
    if faults:
        raise InputError(
            "features and encoder are taken from the pre-trained model; leave out what "
            "contradicts it:\n  " + "\n  ".join(faults)
        )


def refuse_source(ours, theirs, folder):
    """Raise an InputError if a phase went on from another public checkpoint.

    Arguments
    ---------
    ours : str
        Hub name or local folder.
    theirs : dict
        Settings of the encoder in ``folder``; None if it is not a public one.
    folder : str or Path
        Of the phase.
    """
    from ..models.public_source import published  # needs transformers

    def shape(settings):
        left_out = ("_name_or_path", "architectures", "dtype", "transformers_version")
        return {k: v for k, v in settings["config"].items() if k not in left_out}

    if theirs is None or shape(published(ours).settings()) != shape(theirs):
        raise InputError(
            f"source: {ours} is not what {folder} went on from; leave it out"
        )


def start_of(pretrained, modules):
    """What a run starts from, for its fingerprint.

    Arguments
    ---------
    pretrained : str, Path or None
        The key of this name.
    modules : dict
        With the weights that the run starts from: those of the ``encoder``, or of all
        if there is none.

    Returns
    -------
    dict
    """
    if pretrained is None:
        return {"pretrained": None}
    return {
        "pretrained": digest_of(modules.get("encoder", nn.ModuleDict(modules))),
        f"pretrained{FROM}": str(pretrained),
    }


@settled
def load_pretrained(modules, folder, sample_rate=None, names=None):
    """Load the weights of a model that a run starts from, and say what is new.

    Modules that the model lacks keep their random weights, but for the encoder: it may go
    on with another objective.

    Arguments
    ---------
    modules : dict
        Name → module; those that have weights get them.
    folder : str or Path
        A model folder, or that of a phase or of a fine-tuning run.
    sample_rate : int
        Of the features, in Hz.
    names : sequence of str
        The modules to load. Default: all.

    Raises
    ------
    MissingData
        There is no checkpoint, or no encoder in it.
    InputError
        See :func:`~hetero_brain.models.model_folder.open_model`; or the model has another
        architecture.
    """
    try:
        model = open_model(folder)
        theirs = architecture(model.values, model.sample_rate)
        refuse(theirs, architecture_of(modules, sample_rate), folder)
        weights = model.weights
    except Undescribed:
        weights = find_checkpoint(folder)
    with unless_deleted(weights):
        load_from(weights, modules, names)


def load_from(weights, modules, names=None):
    """Load modules from a folder of weights; see :func:`load_pretrained`."""
    stateful = {k: m for k, m in modules.items() if m.state_dict()}
    wanted = [key for key in stateful if key in (names or stateful)]
    found = [key for key in wanted if (weights / f"{key}.ckpt").exists()]
    needed = {"encoder"} & {*wanted} or {*wanted}
    if lacking := sorted(needed - {*found}):
        raise MissingData(
            f"{weights}: the checkpoint has no module {', '.join(lacking)}"
        )
    for key in found:
        fit_state(modules[key], key, weights / f"{key}.ckpt")
    logger.info(f"{', '.join(found)}: loaded from {weights}")
    left = sorted({p.stem for p in weights.glob("*.ckpt")} - {*found} - NO_MODULES)
    new = sorted(modules.keys() - {*found, "features"})
    for said, keys in (
        ("new, with random weights", new),
        (f"not used of {weights}", left),
    ):
        if keys:
            logger.info(f"{said}: {', '.join(keys)}")
