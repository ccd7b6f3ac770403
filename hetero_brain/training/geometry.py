"""How the domains' updates differ, and PTLOC's from CSSL's, in some of the iterations.

With a small local learning rate α, φ_K is so close to θ that the hypergradient is nearly
the gradient at θ: PTLOC is then CSSL at K + 1 times its price. To first order in α, one
plain step follows ∇(ℓ − α/2 ‖∇ℓ‖²).
"""

import math
from statistics import median

import torch
from speechbrain.utils.logger import get_logger

from .parallel import rank_and_size

logger = get_logger(__name__)

# Degrees: the update then differs by 5 % of its length (docs/algorithm.md).
SMALL_ANGLE = 3
JUDGED_ITERATIONS = 100  # after the warm-up
FEWEST_ANGLES = 5  # a median of fewer says little


def angle(ones, others):
    """The angle between two gradients, over the parameters that both have.

    Arguments
    ---------
    ones, others : list of torch.Tensor or None
        Aligned with each other.

    Returns
    -------
    torch.Tensor
        Scalar of float64, in degrees; NaN if one of them is zero or not finite.

    Example
    -------
    >>> one, other = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])
    >>> round(angle([one, None], [other, None]).item(), 4)
    45.0
    """
    pairs = [(a, b) for a, b in zip(ones, others) if a is not None and b is not None]
    if not pairs:
        return torch.tensor(math.nan, dtype=torch.float64)
    one, other = (norm(tensors) for tensors in zip(*pairs))
    # Of the sum and the difference of two unit vectors: accurate for small angles too.
    added = norm(a / one.to(a) + b / other.to(b) for a, b in pairs)
    parted = norm(a / one.to(a) - b / other.to(b) for a, b in pairs)
    return torch.rad2deg(2 * torch.atan2(parted, added))


def norm(tensors):
    """The 2-norm of some tensors together, summed in float64."""
    norms = [torch.linalg.vector_norm(x, dtype=torch.float64) for x in tensors]
    return torch.linalg.vector_norm(torch.stack(norms))


class UpdateGeometry:
    """Angles between hypergradients and gradients at θ, and lengths of local solves.

    Needs no pass of its own, since the first pass of a local solve has the gradient at
    θ, but memory for two more gradients. Passes its figures to the monitor of the Brain,
    for each domain and, without a domain, for all together:

    ``update_angle``
        Degrees between the hypergradient and the gradient at θ of the same batches: for
        all domains, between their means.
    ``step_ratio``
        ‖φ_K − θ‖ / ‖Δθ‖: how far the local solves go, relative to the update of θ.

    A median angle below :data:`SMALL_ANGLE` over the :data:`JUDGED_ITERATIONS` that
    follow the warm-up gives a warning, once, if there are :data:`FEWEST_ANGLES`.

    Arguments
    ---------
    brain : HeteroBrain
        Its ``angle_interval`` is the number of iterations between two measurements.
    """

    def __init__(self, brain):
        self.brain = brain
        self.angles = []  # of the iterations to be judged
        self.last, self.ratio = math.nan, math.nan  # of the last measured iteration
        self._clear()

    def _clear(self):
        self.at_theta, self.mean = None, None
        self.solves = []  # (domain, angle, distance) of this iteration

    def is_due(self):
        """Whether this iteration is measured."""
        return self.brain.local_steps and self.brain.is_due(self.brain.angle_interval)

    @torch.no_grad()
    def add_pass(self, domain, k, grads, divisor):
        """Add a pass of a local solve, while the parameters are φ_k.

        Arguments
        ---------
        domain : str
            Its domain.
        k : int
            The local step; K for the pass of the hypergradient.
        grads : list of torch.Tensor or None
            The gradient of the pass; for k = K, the hypergradient divided by ``divisor``.
        divisor : float
            Of the domain in the mean over domains.
        """
        brain, solver = self.brain, self.brain.local_solver
        last = k == brain.local_steps
        if last and brain.is_due(brain.cosine_interval):
            vector = grads, solver.params
            brain.monitor.keep_gradient(domain, *vector, brain.iteration)
        if not self.is_due():
            return
        if k == 0:
            self.at_theta = [None if g is None else g.clone() for g in grads]
        if last:
            degrees = angle(self.at_theta, grads)
            self.solves.append((domain, degrees, solver.distance()))
            if self.mean is None:
                self.mean = [None] * len(grads)
            for i, grad in enumerate(self.at_theta):
                if grad is not None:
                    share = torch.where(solver.finite, grad, 0).div_(divisor)
                    so_far = self.mean[i]
                    self.mean[i] = share if so_far is None else so_far.add_(share)
            self.at_theta = None

    @torch.no_grad()
    def measure_step(self, optimizers_step):
        """Take the step of the optimizers, and pass on the figures of this iteration.

        Arguments
        ---------
        optimizers_step : callable
            Steps from θ with the mean hypergradient in ``.grad``.
        """
        solver, iteration = self.brain.local_solver, self.brain.iteration
        mean = self._mean_at_theta(solver.params)
        of_all = angle(mean, [p.grad for p in solver.params])
        solver.copy_to_phi()  # which is free between two local solves
        with torch.enable_grad():
            optimizers_step()
        length = solver.distance()
        figures = [of_all, length, *(x for solve in self.solves for x in solve[1:])]
        figures = torch.stack([x.to(length.device) for x in figures]).tolist()
        self._record(*figures)
        if math.isfinite(self.last):
            self._judge(iteration)
        self._clear()

    def _record(self, of_all, length, *of_solves):
        angles, distances = of_solves[::2], of_solves[1::2]
        # In fp16 a step may be skipped.
        ratios = [d / length if length else math.nan for d in distances]
        self._add(None, update_angle=of_all)
        for (domain, *_), degrees, ratio in zip(self.solves, angles, ratios):
            if math.isfinite(degrees):  # otherwise the domain has dropped out
                self._add(domain, update_angle=degrees, step_ratio=ratio)
                self._add(None, step_ratio=ratio)
        self.last = of_all
        self.ratio = sum(ratios) / len(ratios) if ratios else math.nan

    def _add(self, domain, **figures):
        finite = {name: x for name, x in figures.items() if math.isfinite(x)}
        self.brain.monitor.add(domain, **finite)

    def _mean_at_theta(self, params):
        """The mean gradient at θ over the domains of all ranks."""
        mean = self.mean or [None] * len(params)
        if rank_and_size()[1] > 1:
            mean = [
                torch.zeros_like(p) if g is None else g for g, p in zip(mean, params)
            ]
            works = [torch.distributed.all_reduce(g, async_op=True) for g in mean]
            for work in works:
                work.wait()
        return mean

    def _judge(self, iteration):
        first = getattr(self.brain.lr_schedule, "warmup_iterations", 0)
        if first <= iteration < first + JUDGED_ITERATIONS:
            self.angles.append(self.last)
        elif iteration >= first:
            self.conclude()

    def conclude(self):
        """Warn if the angles to be judged are small; afterwards none is left to judge."""
        is_enough = len(self.angles) >= FEWEST_ANGLES
        if is_enough and median(self.angles) < SMALL_ANGLE:
            group = self.brain.local_solver.optimizer.param_groups[0]
            logger.warning(
                f"The update of PTLOC is within {median(self.angles):.1f} degrees of "
                f"CSSL's (median of {len(self.angles)} iterations), at "
                f"{self.brain.local_steps + 1} times its price: local steps at a rate of "
                f"{group.get('initial_lr', group['lr']):.3g} are too short to matter. "
                "Raise local_lr or local_steps; hetero_brain.local_lr_finder (in recipes "
                "--find_local_lr True) shows how far."
            )
        self.angles = []
