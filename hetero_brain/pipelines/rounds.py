"""The alternation CSSL.1 → PTLOC.1 → CSSL.2 → …: phases run one after another.

Every phase has a folder of its own with its checkpoints (``save``), its logs and, once it
has ended, its model folder (``model``); it starts from the last checkpoint of the phase
before it. The same command continues an interrupted run: finished phases have no epochs
left.
"""

import copy
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.logger import get_logger

from ..data.audited_loader import AuditedLoader
from ..errors import InputError
from ..training.checkpoints import AtomicCheckpointer
from ..training.fingerprint import fingerprint
from ..training.local_lr import find_local_lr
from ..training.loggers import NamedLogger, further_loggers, run_loggers
from ..training.rng import derive_seed
from ..training.schedules import HoldThenDecay
from ..training.settings import PHASE_SETTINGS, in_words, wrong_values
from .curves import plot_phases
from .export import export_at_end
from .pretrained import load_pretrained, start_of
from .recipe_run import recipe_brain
from .run_record import record_phase
from .wrong_values import wanted_phases

logger = get_logger(__name__)


@dataclass(frozen=True)
class Phase:
    """One CSSL or PTLOC run.

    Attributes
    ----------
    name : str
        Name of the phase and of its folder.
    init : str or None
        The name of the phase that it starts from, or the folder of an external
        checkpoint; None for random weights.
    epochs : int
        Length of the phase.
    lr : float
        Global learning rate β.
    hold_epochs : float
        Epochs at the full rate; all by default.
    lr_decay : float
        Factor on both rates for each epoch after those (paper: 1/√2).
    warmup_iterations : int
        Iterations of linear warm-up of both rates.
    local_steps : int
        K; 0 is CSSL.
    local_lr : float
        Local learning rate α.
    """

    name: str
    init: str | None
    epochs: int
    lr: float
    hold_epochs: float = float("inf")
    lr_decay: float = 2**-0.5
    warmup_iterations: int = 0
    local_steps: int = 0
    local_lr: float = 0.0

    def __post_init__(self):
        if problems := wrong_values(vars(self), PHASE_SETTINGS):
            raise InputError(f"{self.name}: {in_words(problems)}")

    @property
    def passes_per_epoch(self):
        """Forward-backward passes of a domain batch, relative to a CSSL epoch."""
        return self.local_steps + 1


def alternation(n_rounds, cssl, ptloc, control=None, init=None):
    """The phases of ``n_rounds`` rounds, and the control that the paper lacks.

    Arguments
    ---------
    n_rounds : int
        Rounds of a CSSL and a PTLOC phase.
    cssl, ptloc : dict
        Settings of these phases, as for :class:`Phase`.
    control : dict
        If given, CSSL is continued from CSSL.1 for as many forward-backward passes as
        PTLOC.1 takes: K + 1 times its epochs, with its schedule stretched by the same
        factor. Holds ``lr``, and optionally ``warmup_iterations``.
    init : str
        Folder of an external checkpoint to start the first phase from.

    Returns
    -------
    list of Phase

    Example
    -------
    >>> phases = alternation(
    ...     2,
    ...     cssl={"epochs": 80, "lr": 2e-4},
    ...     ptloc={"epochs": 60, "lr": 1e-5, "local_lr": 1e-4, "local_steps": 1},
    ...     control={"lr": 2e-4},
    ... )
    >>> [(phase.name, phase.init, phase.epochs) for phase in phases]
    [('CSSL.1', None, 80), ('PTLOC.1', 'CSSL.1', 60),
     ('CSSL-continued.1', 'CSSL.1', 120),
     ('CSSL.2', 'PTLOC.1', 80), ('PTLOC.2', 'CSSL.2', 60)]
    """
    phases = []
    for i in range(1, n_rounds + 1):
        phases.append(Phase(f"CSSL.{i}", init, **cssl))
        phases.append(Phase(f"PTLOC.{i}", f"CSSL.{i}", **ptloc))
        if i == 1 and control is not None:
            phases.append(control_of(phases[-1], **control))
        init = f"PTLOC.{i}"
    return phases


def continued(ptloc, control, init=None):
    """The phases that go on from a public checkpoint, which others have trained by CSSL:
    PTLOC.1, and CSSL-continued.1 as its control, both from that.

    Arguments
    ---------
    ptloc, control : dict
        As for :func:`alternation`.
    init : str
        Folder of a phase to start both from; None for the public checkpoint.

    Returns
    -------
    list of Phase

    Example
    -------
    >>> ptloc = {"epochs": 4, "lr": 1e-5, "local_lr": 1e-3, "local_steps": 1}
    >>> phases = continued(ptloc, control={"lr": 1e-5})
    >>> [(phase.name, phase.init, phase.epochs) for phase in phases]
    [('PTLOC.1', None, 4), ('CSSL-continued.1', None, 8)]
    """
    first = Phase("PTLOC.1", init, **ptloc)
    return [first, control_of(first, **control)]


def control_of(ptloc, **settings):
    """CSSL from where a PTLOC phase starts, for as many forward-backward passes: K + 1
    times its epochs, with its schedule stretched by the same factor."""
    factor = ptloc.passes_per_epoch
    return Phase(
        "CSSL-continued.1",
        ptloc.init,
        epochs=ptloc.epochs * factor,
        hold_epochs=ptloc.hold_epochs * factor,
        lr_decay=ptloc.lr_decay ** (1 / factor),
        **settings,
    )


def chains(phases):
    """Split phases into chains that can run in parallel: a chain ends with a phase that
    several others start from.

    Example
    -------
    >>> ptloc = {"epochs": 9, "lr": 1e-3}
    >>> of_two_rounds = alternation(2, ptloc, ptloc, control={"lr": 1e-3})
    >>> [[phase.name for phase in chain] for chain in chains(of_two_rounds)]
    [['CSSL.1'], ['CSSL-continued.1'], ['PTLOC.1', 'CSSL.2', 'PTLOC.2']]
    """
    starts = Counter(phase.init for phase in phases)
    found = {}  # the last phase of each chain → the chain
    for phase in phases:
        chain = found.pop(phase.init, []) if starts[phase.init] == 1 else []
        found[phase.name] = [*chain, phase]
    return list(found.values())


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
    """
    folder = Path(hparams["output_folder"])
    names = [phase.name for phase in hparams["phases"]]
    shared = further_loggers(hparams.get("train_logger"))
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
        run_phase(phase, init, hparams, run_opts, brain_class, loaders, shared)
        run_on_main(plot_phases, args=[folder, folder / "phases.png"])


def states(modules):
    """Name → state of the modules that have one."""
    found = {key: module.state_dict() for key, module in modules.items()}
    return {key: state for key, state in found.items() if state}


def run_phase(phase, init, hparams, run_opts, brain_class, loaders, shared):
    """Run one phase in its own folder, from the checkpoint in ``init`` (or None).
    ``loaders`` are those of train and dev, ``shared`` the loggers of all phases."""
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
        phase={k: v for k, v in asdict(phase).items() if k not in ("init", "epochs")},
    )
    logger.info(f"{phase.name}: {phase}")
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


def is_of_phases(key):
    """Whether a hyperparameter describes phases; the fingerprint has each phase's own."""
    descriptions = {"cssl", "ptloc", "phases", "only_phases", "n_rounds"}
    return (
        key in descriptions
        or key in Phase.__dataclass_fields__
        or key.startswith(("cssl_", "ptloc_"))
    )
