"""What each of several local learning rates would do: a table, before PTLOC begins."""

import json
import math
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from speechbrain.utils.distributed import if_main_process

from .geometry import UpdateGeometry
from .local_lr_report import advice, plot, table
from .module_state import ModuleState
from .monitor import DomainMonitor
from .rng import RandomState

N_RATES, PER_DECADE = 10, 3


def local_lr_finder(brain, loader, rates=None, n_batches=3, folder=None):
    """Measure what local learning rates α do at the current weights θ.

    Below a few degrees of update angle PTLOC is CSSL at K + 1 times its price. Where the
    loss of domains rises in their own local solves, α is too large. The finder prints a
    table and says which rates are between the two, and what single updates cannot show;
    θ, optimizers, rates and generators stay as they are. It takes as long as
    ``n_batches`` iterations for each rate.

    Arguments
    ---------
    brain : HeteroBrain
        With a ``local_optimizer``; with ``local_steps: 0``, one step is taken.
    loader : iterable
        Of global batches; the first ones are used. On several ranks, every rank calls
        the finder with its own.
    rates : sequence of float
        Values of α. Default: ten, three to a factor of ten, around the rate of the local
        optimizer.
    n_batches : int
        Global batches for each rate.
    folder : str or Path
        Where to write ``local_lr.json`` and ``local_lr.png``; neither by default.

    Returns
    -------
    list of dict
        For each rate: ``local_lr``; ``update_angle`` in degrees (median over batches);
        ``local_gain``, the mean of ℓ_i(θ) − ℓ_i(φ_K); ``risen``, the share of domains
        whose loss rose, or was not finite.

    Raises
    ------
    ValueError
        The Brain has no local optimizer, or the loader no batch.
    """
    if brain.local_optimizer is None:
        raise ValueError("local_lr_finder: set local_optimizer, the one to find α for")
    batches = list(islice(loader, n_batches))
    if not batches:
        raise ValueError("local_lr_finder: the loader has no batch")
    with measuring(brain) as start:
        rows, group = [], brain.local_solver.optimizer.param_groups[0]
        given = group.get("initial_lr", group["lr"])
        for rate in rates or around(given):
            start(rate)
            rows.append(measured(brain, batches, rate))
    if if_main_process():
        print("\n".join([*table(rows, given), *advice(rows, given)]))
        if folder is not None:
            folder = Path(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "local_lr.json").write_text(json.dumps(rows, indent=1), "utf-8")
            plot(rows, given, folder / "local_lr.png")
    return rows


def find_local_lr(brain, loader, folder):
    """Measure local learning rates on the first iterations of a phase."""
    if hasattr(sampler := getattr(loader, "sampler", None), "start_at"):
        sampler.start_at(0)
    counts = {k: v for k, v in vars(loader).items() if k in ("bad", "rows")}
    local_lr_finder(brain, loader, folder=folder)
    vars(loader).update(counts)  # the phase counts what it reads from its beginning


def around(middle):
    """Rates around a given one."""
    return [middle * 10 ** (i / PER_DECADE) for i in range(-5, N_RATES - 5)]


def measured(brain, batches, rate):
    """The row of one rate."""
    for batch in batches:
        brain.fit_batch(batch)
    gains, risen = [], set()
    figures = brain.monitor.pop()
    domains = {key.partition("/")[2] for key in figures if "/" in key}
    for domain in domains:
        gain = figures.get(f"local_gain/{domain}", math.nan)
        gains.append(gain)
        if not gain >= 0 or f"dropped/{domain}" in figures:
            risen.add(domain)
    finite = [gain for gain in gains if math.isfinite(gain)]
    return {
        "local_lr": rate,
        "update_angle": figures.get("update_angle", math.nan),
        "local_gain": sum(finite) / len(finite) if finite else math.nan,
        "risen": len(risen) / len(domains),
    }


@contextmanager
def measuring(brain):
    """Have ``fit_batch`` measure, and leave the Brain as it was afterwards.

    Yields
    ------
    callable
        α → sets it, and returns to the random state of the entry.
    """
    is_new = "local_solver" not in vars(brain)  # the optimizers may not exist yet
    solver = brain.local_solver
    try:
        with (
            unchanged(brain, solver) as start,
            patch.multiple(brain, **stand_ins(brain, solver)),
            patch.object(solver, "keep_state", False),
        ):
            brain.modules.train()
            yield start
    finally:
        if is_new:
            del brain.local_solver


@contextmanager
def unchanged(brain, solver):
    """Undo what iterations do to a Brain: parameters and buffers, modes of modules, the
    rates of its local solver, random state, counters, and the scale of its gradients.

    Yields
    ------
    callable
        As for :func:`measuring`.
    """
    groups, modules = solver.optimizer.param_groups, ModuleState(brain.all_modules())
    snapshot, random_state = modules.copy(), RandomState(brain.device)
    random_state.keep()
    rates = [group["lr"] for group in groups]
    modes = [(module, module.training) for module in modules.modules]
    run = brain.optimizer_step, brain.stopping, brain.scaler.state_dict()

    def start(rate):
        for group in groups:
            group["lr"] = rate
        random_state.restore()

    try:
        yield start
    finally:
        for group, rate in zip(groups, rates):
            group["lr"] = rate
        for module, mode in modes:
            module.training = mode
        modules.restore(snapshot)
        random_state.restore()
        brain.optimizer_step, brain.stopping, scale = run
        if scale:
            brain.scaler.load_state_dict(scale)


def stand_ins(brain, solver):
    """Attributes with which ``fit_batch`` measures its update instead of making it, and
    neither logs nor calls hooks: name → value."""

    def nothing(*args, **kwargs):
        pass

    def zero_grad(set_to_none=True):
        for param in solver.params:
            param.grad = None

    def measure():
        brain.geometry.measure_step(nothing)
        zero_grad()

    monitor = DomainMonitor()
    return {
        "angle_interval": 1,
        "check_loss_isfinite": nothing,
        "cosine_interval": 0,
        "end_iteration": nothing,
        "geometry": UpdateGeometry(brain),
        "leave_out": lambda domain, reason: monitor.drop(domain),
        "local_steps": max(1, brain.local_steps),
        "lr_schedule": None,
        "monitor": monitor,
        "observe": nothing,
        "on_fit_batch_end": nothing,
        "on_fit_batch_start": nothing,
        "optimizers_step": measure,
        "step": 0,
        "zero_grad": zero_grad,
    }
