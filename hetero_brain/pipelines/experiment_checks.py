"""What of an experiment cannot be, or may be unexpected, said before its first step."""

from speechbrain.utils.logger import get_logger

from ..errors import InputError, meant
from ..models.transfer import PUBLIC

logger = get_logger(__name__)


def check(spec, phases=None):
    """Raise an InputError that names every key of the experiment's steps that is missing,
    lists no domains, or judges what is not pre-trained; and, once the ``phases`` are
    known, models that are none."""
    keys = {"pretrain": ("hparams", "options")}
    steps = {"pretrain": spec["pretrain"]}
    for name, judge in spec["judges"].items():
        keys[f"judges: {name}"] = ("hparams", "seeds", "finetune_domains", "options")
        steps[f"judges: {name}"] = judge
    problems = [
        f"  {step}: no {key}"
        for step, needed in keys.items()
        for key in needed
        if key not in (steps[step] or {})
    ]
    problems += [
        f"  judges: {name}: finetune_domains is empty: list those to fine-tune on"
        for name, judge in spec["judges"].items()
        if judge and judge.get("finetune_domains", True) in ([], None)
    ]
    trained = spec.get("seeds") or ()
    problems += [
        f"  judges: {name}: seeds: {other} are not pre-trained (seeds: {trained}): "
        "choose from those, or [] to leave the judge out"
        for name, judge in spec["judges"].items()
        if {*spec.get("models", ())} - {"scratch", PUBLIC}
        and (other := [s for s in (judge or {}).get("seeds", ()) if s not in trained])
    ]
    if phases is not None and (wrong := wrong_models(spec, phases)):
        problems.append(f"  {wrong}")
    if problems:
        raise InputError("\n".join([f"{spec.path}:", *problems]))


def wrong_models(spec, phases):
    """In words: models that are no phases, or None."""
    known = ["scratch", PUBLIC, *phases]
    if unknown := [model for model in spec.get("models", ()) if model not in known]:
        near = meant(unknown, known)
        return f"models: {unknown} are none of {', '.join(known)}{near}"
    return None


def check_models(spec, phases):
    """Raise an InputError if models are no phases; warn of phases that are no models.

    Arguments
    ---------
    spec : dict
        The YAML of the experiment.
    phases : list of str
        Names of those that are pre-trained.
    """
    if wrong := wrong_models(spec, phases):
        raise InputError(wrong)
    if unused := [phase for phase in phases if phase not in spec["models"]]:
        logger.warning(
            f"{', '.join(unused)}: pre-trained, but not among models, so not fine-tuned"
        )


def in_words(spec):
    """What an experiment fine-tunes, as a sentence."""
    ways = [
        f"{name} (seeds {judge['seeds']}, domains {judge['finetune_domains']})"
        for name, judge in spec["judges"].items()
        if judge["seeds"]
    ]
    ways = " and ".join(ways) or "no judge"
    return f"Fine-tunes {', '.join(spec['models'])} by {ways}; seeds: [] leaves one out"
