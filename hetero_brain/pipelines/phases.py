"""The phases of a pre-training: CSSL.1 → PTLOC.1 → CSSL.2 → …, and the CSSL control."""

from collections import Counter
from dataclasses import asdict, dataclass

from ..errors import InputError
from ..training.settings import PHASE_SETTINGS, in_words, wrong_values


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

    def in_words(self):
        """Its settings, for people.

        Example
        -------
        >>> Phase("PTLOC.1", "CSSL.1", 9, 1e-3, local_steps=1, local_lr=0.03).in_words()
        'PTLOC.1 from CSSL.1: 9 epochs, lr 0.001, 1 local step of lr 0.03'
        """
        told = [f"{self.epochs} epoch{'s' * (self.epochs != 1)}", f"lr {self.lr:g}"]
        if steps := self.local_steps:
            told.append(
                f"{steps} local step{'s' * (steps != 1)} of lr {self.local_lr:g}"
            )
        start = f" from {self.init}" if self.init else ""
        return f"{self.name}{start}: {', '.join(told)}"

    def settings(self):
        """What its weights after an epoch depend on, besides what it starts from."""
        return {k: v for k, v in asdict(self).items() if k not in ("init", "epochs")}


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


def is_of_phases(key):
    """Whether a hyperparameter describes phases; the fingerprint has each phase's own."""
    descriptions = {"cssl", "ptloc", "phases", "only_phases", "n_rounds"}
    return (
        key in descriptions
        or key in Phase.__dataclass_fields__
        or key.startswith(("cssl_", "ptloc_"))
    )
