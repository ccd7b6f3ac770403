"""Running the phases CSSL.1 → PTLOC.1 → CSSL.2 → … one after another.

Every phase has a folder of its own with its checkpoints (``save``), its logs and, once it
has ended, its model folder (``model``); it starts from the last checkpoint of the phase
before it. The same command continues an interrupted run: finished phases have no epochs
left.
"""

import copy
from functools import partial
from pathlib import Path

import torch
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.logger import get_logger

from ..data.audited_loader import AuditedLoader
from ..training.checkpoints import AtomicCheckpointer
from ..training.fingerprint import fingerprint
from ..training.local_lr import find_local_lr
from ..training.loggers import NamedLogger, further_loggers, run_loggers
from ..training.rng import derive_seed
from ..training.schedules import HoldThenDecay
from .curves import plot_phases
from .earlier_run import refuse_broken_chain
from .export import export_at_end
from .phases import is_of_phases
from .pretrained import load_pretrained, start_of
from .recipe_run import recipe_brain
from .run_record import record_phase
from .wrong_values import wanted_phases

logger = get_logger(__name__)


def run_phases(hparams, run_opts, brain_class, train_loader, dev_loader=None):
    """Run all phases of ``hparams["phases"]``, or only those in ``only_phases``, and plot
    them as ``phases.png`` after each.

    Arguments
    ---------
    hparams : dict
        ``phases``, ``only_phases`` (empty for all), ``find_local_lr`` (whether to measure
        rates before the first phase of PTLOC), ``modules``, ``opt_class`` and
        ``local_optimizer`` (without ``lr``), ``output_folder``, ``seed``,
        ``train_logger`` (of all phases), and the settings of the Brain.
    run_opts : RunOptions or dict
        SpeechBrain's run options.
    brain_class : type
        A HeteroBrain.
    train_loader : DataLoader
        Of global batches.
    dev_loader : DataLoader
        Of single domain batches, to validate on; None for no validation.

    Returns
    -------
    list of str
        The phases that were trained; others were finished before.

    Raises
    ------
    InputError
        See :func:`~hetero_brain.pipelines.earlier_run.refuse_broken_chain`.
    """
    folder = Path(hparams["output_folder"])
    refuse_broken_chain(folder, hparams, run_opts)
    names = [phase.name for phase in hparams["phases"]]
    shared, trained = further_loggers(hparams.get("train_logger")), []
    initial = {}  # which several phases start from, and each would change for the next
    if [phase.init for phase in hparams["phases"]].count(None) > 1:
        initial = copy.deepcopy(states(hparams["modules"]))
    for phase in wanted_phases(hparams["phases"], hparams["only_phases"]):
        if phase.init is None:
            for key, state in initial.items():
                hparams["modules"][key].load_state_dict(state)
        torch.manual_seed(derive_seed(hparams["seed"], phase.name))
        init = folder / phase.init if phase.init in names else phase.init
        loaders = train_loader, dev_loader
        if run_phase(phase, init, hparams, run_opts, brain_class, loaders, shared):
            trained.append(phase.name)
        run_on_main(plot_phases, args=[folder, folder / "phases.png"])
    return trained


def states(modules):
    """Name → state of the modules that have one."""
    found = {key: module.state_dict() for key, module in modules.items()}
    return {key: state for key, state in found.items() if state}


def run_phase(phase, init, hparams, run_opts, brain_class, loaders, shared):
    """Run one phase in its own folder, from the checkpoint in ``init`` (or None).
    ``loaders`` are those of train and dev, ``shared`` the loggers of all phases. Returns
    whether it was trained, not finished before."""
    train_loader, dev_loader = loaders
    folder = Path(hparams["output_folder"]) / phase.name
    folder.mkdir(parents=True, exist_ok=True)
    stateful = {k: m for k, m in hparams["modules"].items() if m.state_dict()}
    counter = EpochCounter(phase.epochs)
    checkpointer = AtomicCheckpointer(
        folder / "save",
        {**stateful, "counter": counter},
        keep_last=hparams.get("keep_last", 2),
        milestone_interval=hparams.get("milestone_interval", 0),
    )
    manifest = None
    if isinstance(train_loader, AuditedLoader):
        checkpointer.add_recoverable("audit", train_loader, optional_load=True)
        manifest = train_loader.dataset.utterances.manifest
    is_new = checkpointer.find_checkpoint() is None
    is_first = init == phase.init is not None  # it starts from a model, not a phase
    if init is not None and (is_new or is_first):
        load_pretrained(hparams["modules"], init, hparams.get("sample_rate"))
    schedule = HoldThenDecay(phase.hold_epochs, phase.lr_decay, phase.warmup_iterations)
    brain = recipe_brain(brain_class)(
        modules=hparams["modules"],
        opt_class=partial(hparams["opt_class"], lr=phase.lr),
        hparams={
            **hparams,
            "local_steps": phase.local_steps,
            "local_optimizer": partial(hparams["local_optimizer"], lr=phase.local_lr),
            "lr_schedule": schedule,
            "loggers": run_loggers(folder, phase.name)
            + [NamedLogger(x, phase.name) for x in shared],
        },
        run_opts=run_opts,
        checkpointer=checkpointer,
    )
    checkpointer.fingerprint = fingerprint(
        brain,
        hparams,
        manifest,
        leave_out=[key for key in hparams if is_of_phases(key)],
        **(start_of(init, hparams["modules"]) if is_first else {}),
        phase=phase.settings(),
    )
    logger.info(phase.in_words())
    logger.debug(f"{phase}")
    noted = folder, counter, phase, init, hparams, manifest
    brain.on_recovered = partial(record_phase, *noted)
    first_ptloc = next((p.name for p in hparams["phases"] if p.local_steps), None)
    if hparams.get("find_local_lr") and phase.name == first_ptloc and is_new:
        find_local_lr(brain, train_loader, folder)
    brain.fit(counter, train_loader, dev_loader)
    for module in hparams["modules"].values():
        if hasattr(module, "save_pretrained"):
            run_on_main(module.save_pretrained, args=[folder / "huggingface"])
    export_at_end(folder)
    return brain.iteration > brain.begun_at
