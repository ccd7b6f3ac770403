"""Pre-training from manifests: the last call of every recipe's pretrain/train.py."""

from pathlib import Path

from ..data.datasets import Utterances
from ..data.loaders import dev_loader, make_plan, train_loader
from ..models.run_folder import newest
from ..objectives.quantizers import fit_quantizer
from ..training.settings import PIPELINE_SETTINGS, check_settings
from .closing import end_pretraining
from .look_ahead import look_ahead
from .rounds import run_phases
from .wrong_values import wanted_phases


def pretrain(hparams, run_opts, train, dev):
    """Run the phases of ``hparams`` on the audio of two manifests; labels are not read.

    Arguments
    ---------
    hparams : dict
        As in a recipe's ``pretrain/hparams``: ``brain_class`` (the objective), ``plan``,
        ``loader``, ``sample_rate``, and what :func:`rounds.run_phases` reads. A module
        ``quantizer`` that has to be fitted is fitted first, if there are ``targets``
        on a sample that is balanced over the domains.
    run_opts : RunOptions or dict
        SpeechBrain's run options.
    train, dev : Manifest
        Trains on all domains of ``train``, validates on those of ``dev``, which may be
        None.
    """
    check_settings(hparams, PIPELINE_SETTINGS)
    seed, seconds = hparams["seed"], hparams["plan"]["max_utterance_seconds"]
    train, dev = (
        rows and Utterances(rows, hparams["sample_rate"], None, seconds, seed)
        for rows in (train, dev)
    )
    modules, folder = hparams["modules"], Path(hparams["output_folder"])
    plan = make_plan(train.manifest, seed, **hparams["plan"])
    phases = wanted_phases(hparams["phases"], hparams["only_phases"])
    look_ahead(plan, train.manifest, hparams["sample_rate"], phases, run_opts)
    fixed = hparams["local_optimizer_state"] == "per_domain"
    drawer = hparams["brain_class"].loader_drawer(modules, hparams)
    options = {**hparams["loader"], "drawer": drawer}
    # Made before the quantizer: all ranks refuse too many of them at the same place.
    loader = train_loader(train, plan, **options, fixed_owners=fixed)
    fit_quantizer(
        modules.get("quantizer"),
        modules.get("targets", modules["features"]),
        train,
        folder / "quantizer.ckpt",
        balanced="targets" in modules,
        device=run_opts["device"],
        # Otherwise it may be of other settings, which were refused.
        anew=not any(newest(folder / phase.name) for phase in hparams["phases"]),
    )
    trained = run_phases(
        hparams,
        run_opts,
        hparams["brain_class"],
        loader,
        dev and dev_loader(dev, hparams["global_batch_seconds"], **options),
    )
    end_pretraining(hparams, phases, trained, run_opts.get("debug"))
