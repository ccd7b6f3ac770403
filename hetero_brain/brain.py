"""The Brain whose ``fit_batch`` is one iteration of PTLOC.

Source: X. Cui, A. F. M. Saif, B. Kingsbury, T. Chen, "Heterogeneous Self-Supervised
Acoustic Pre-Training with Local Constraints", arXiv:2508.19990, Algorithm 1.
"""

import math
from contextlib import contextmanager
from functools import cached_property, partial

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from .bilevel import LocalSolver
from .domain_batch import NonFiniteDomain, NothingToLearn, mean_divisors
from .training.gradients import accumulate, divide, gradients, total_norm
from .training.parallel import broadcast_module, rank_and_size, reduce_gradients
from .training.resumable import ResumableBrain
from .training.rng import RandomState, derive_seed
from .training.schedules import scale_rates
from .training.settings import brain_settings

logger = get_logger(__name__)


class HeteroBrain(ResumableBrain):
    """Pre-trains any model on batches of several domains, by CSSL or PTLOC.

    Subclasses write ``compute_forward`` and ``compute_objectives`` on ordinary
    batches, exactly as for ``sb.Brain``; the train loader yields global batches, i.e.
    sequences of :class:`DomainBatch`. All arguments are those of ``sb.Brain``; the
    settings of the bilevel update are read from ``hparams``:

    ``local_steps`` : int
        K, local steps from θ on each domain. 0 (default) is CSSL.
    ``local_optimizer`` : callable
        Factory of the local optimizer, with its ``lr`` α; needed when K > 0.
    ``local_optimizer_state`` : str
        ``fresh`` (default) for every solve, or kept ``per_domain``.
    ``hypergradient`` : str
        ``first_order`` (default; eq. 10) or ``exact`` (through the K steps).
    ``domain_weights`` : dict
        Weight of each domain in the mean; equal by default.
    ``lr_schedule`` : callable
        (epoch, iteration) → factor on all learning rates, local and global.
    ``cosine_interval`` : int
        Iterations between two measurements of the cosines between the domains'
        hypergradients (0, the default: never; M gradients in memory).
    ``seed`` : int
        If given, the randomness of an iteration (dropout) is drawn from (seed,
        iteration, domain), so that any iteration can be replayed alone.

    Raises
    ------
    ValueError
        Naming every key in ``hparams`` with a wrong or misspelt setting.

    Example
    -------
    >>> from hetero_brain import DomainBatch
    >>> class Mean(HeteroBrain):
    ...     def compute_forward(self, batch, stage):
    ...         return self.modules.model(batch)
    ...
    ...     def compute_objectives(self, predictions, batch, stage):
    ...         return (predictions - 1).square().mean()
    >>> sgd = partial(torch.optim.SGD, lr=0.1)
    >>> hparams = {"local_steps": 1, "local_optimizer": sgd}
    >>> brain = Mean({"model": torch.nn.Linear(3, 1)}, sgd, hparams)
    >>> brain.init_optimizers()
    >>> loss = brain.fit_batch([DomainBatch("en", (torch.rand(4, 3),))])
    """

    def __init__(self, modules=None, opt_class=None, hparams=None, *args, **kwargs):
        settings = brain_settings(hparams or {})
        super().__init__(modules, opt_class, hparams or {}, *args, **kwargs)
        vars(self).update(settings)
        if self.grad_accumulation_factor != 1:
            raise ValueError(
                f"grad_accumulation_factor is {self.grad_accumulation_factor}; an "
                "iteration accumulates over its domains already. Raise the seconds of "
                "a global batch instead."
            )
        self.random_state = RandomState(self.device)
        self.left_out, self.overflowed = 0, False  # domains of this iteration; in fp16

    def fit_batch(self, global_batch):
        """One iteration of PTLOC (Algorithm 1): θ ← θ − β (1/M) Σ_i ∇ℓ_i(φ_K^i).

        Arguments
        ---------
        global_batch : sequence of DomainBatch
            The batches of the M domains of this iteration, or a rank's :class:`Share`.

        Returns
        -------
        torch.Tensor
            Detached loss on the CPU, averaged over domains at φ_K; NaN when the loss
            or the gradient of no domain was finite.
        """
        self.anneal(self.iteration)
        self.on_fit_batch_start(global_batch, True)
        finite = []
        for part, divisor in zip(global_batch, self.divisors(global_batch)):
            with self.local_solve(part) as phi:  # φ_0 = θ here, and θ again behind it
                for k in range(self.local_steps):
                    _, grads, _ = self.gradient(part, k)
                    phi.step(grads, partial(self.loss, part, k))  # φ_{k+1}: eq. 6
                    del grads  # never two gradients at a time
                loss, grads, outputs = self.gradient(part, self.local_steps, divisor)
                self.accumulate(grads)  # g ← g + ∇ℓ_i(φ_K)/M: eqs. 10, 11
                del grads
                finite.append((1 / divisor, loss, outputs))
        loss = self.global_step(finite)  # θ ← θ − β g: eq. 12
        self.on_fit_batch_end(global_batch, [out for _, _, out in finite], loss, True)
        self.end_iteration(loss)
        return loss

    @contextmanager
    def local_solve(self, part):
        """The local solve of one domain, which is left out if it has no finite loss.

        All passes of a solve start from one random state, so that ℓ_i is one function
        at both levels, dropout included. θ is back when the block is left.
        """
        if self.seed is not None:
            self.random_state.seed(derive_seed(self.seed, self.iteration, part.unit))
        self.random_state.keep()
        self._losses_and_norms = []  # of each pass of this solve
        try:
            with self.local_solver.solve(part.unit) as phi:
                yield phi
        except (NonFiniteDomain, NothingToLearn) as reason:
            logger.warning(
                f"iteration {self.iteration}: domain {part.domain} is left out: {reason}"
            )
            self.monitor.drop(part.domain)
            if isinstance(reason, NonFiniteDomain):
                if self.scaler.is_enabled() and reason.loss_is_finite:
                    self.overflowed = True  # the scale of fp16 is to blame
                else:
                    self.left_out += 1

    def forward_pass(self, part, k):
        """What ``compute_forward`` returns on the batch of local step k, and ℓ_i, a
        scalar with its graph, at the current weights."""
        last = k == self.local_steps
        batch = part.batches[-1 if last else k % len(part.batches)]
        self.random_state.restore()
        with self.training_ctx:
            outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        return outputs, loss

    def loss(self, part, k):
        """The loss of :meth:`forward_pass`."""
        return self.forward_pass(part, k)[1]

    def gradient(self, part, k, divisor=1):
        """ℓ_i (detached), the gradient of ℓ_i / divisor, and what ``compute_forward``
        returned, at the current weights.

        After the last local step it is the hypergradient, which differs if exact.

        Raises
        ------
        NonFiniteDomain
            A loss or a gradient of this solve was not finite; raised after the last
            local step, so that the host waits for the device once a solve.
        """
        outputs, loss = self.forward_pass(part, k)
        grads = gradients(loss / divisor, self.local_solver.params, self.scaler)
        loss, norm = loss.detach().float().squeeze(), loss.new_zeros(())
        last = k == self.local_steps
        if last:
            # A local gradient that was not finite has left a φ that is not.
            norm = norm + self.local_solver.check()
            grads = self.local_solver.hypergradient(grads)  # through K steps if exact
        if last or self.scaler.is_enabled():  # in fp16, which pass overflowed matters
            norm = norm + total_norm(grads) * divisor
        self._losses_and_norms.append(torch.stack([loss, norm.float()]))
        if last:
            self.finish_solve(part, grads)
        self.observe(part, k, outputs)
        return loss, grads, outputs

    def finish_solve(self, part, grads):
        """Check that the passes of a solve were finite, and give them to the monitor."""
        passes = torch.stack(self._losses_and_norms).tolist()  # the one wait for a GPU
        NonFiniteDomain.raise_for(passes)
        self.monitor.add_solve(part.domain, passes)
        if self.is_due(self.cosine_interval):
            self.monitor.keep_gradient(part.domain, grads, self.local_solver.params)

    def observe(self, part, k, outputs):
        """Called once a pass with what ``compute_forward`` returned; does nothing.

        Override to add figures of an objective to the log with ``self.monitor.add(domain,
        name=value)``; a 0-dimensional tensor as value spares the wait for the device.
        """

    def divisors(self, global_batch):
        """What each domain's loss is divided by, so that the sum is the weighted mean."""
        own = [part.domain for part in global_batch]
        domains = own if rank_and_size()[1] == 1 else global_batch.domains
        return mean_divisors(own, domains, self.domain_weights)

    def accumulate(self, grads):
        """Add a domain's share of the hypergradient to ``.grad``, as backward does."""
        # The scale is 1 but in fp16, where optimizers_step divides by it.
        accumulate(self.local_solver.params, grads, self.scaler.get_scale())

    def global_step(self, finite):
        """SpeechBrain's optimizer step on the mean over the domains that were finite.

        One all-reduce adds up the gradients of all ranks, and how the iteration went.

        Arguments
        ---------
        finite : list of (float, torch.Tensor, any)
            Of each domain that was: its share of the mean, its loss at φ_K, its outputs.
            Without any, θ and the optimizer stay as they are.

        Returns
        -------
        torch.Tensor
            The mean loss, detached, on the CPU; NaN of none.
        """
        scale, params = self.scaler.get_scale(), self.local_solver.params
        loss = torch.as_tensor(sum(loss * share for share, loss, _ in finite)).cpu()
        used = sum(share for share, _, _ in finite)
        own = [used, self.left_out, self.overflowed, self.wants_to_stop(), loss]
        figures = reduce_gradients(params, torch.tensor(own, dtype=torch.float64))
        used, left_out, overflowed, self.stopping, loss = figures.double().tolist()
        self.left_out, self.overflowed = 0, False
        for _ in range(round(left_out)):
            self.check_loss_isfinite(torch.tensor(math.nan))  # counts patience
        if used == 0:
            self.zero_grad(set_to_none=True)
            self.optimizer_step += 1
        else:
            if not math.isclose(used, 1, rel_tol=1e-6):
                divide(params, used)
            self.optimizers_step()
        if overflowed:
            self.scaler.update(scale * self.scaler.get_backoff_factor())
        return torch.tensor(loss / used if used else math.nan)

    @cached_property
    def local_solver(self):
        """The :class:`LocalSolver` of this model."""
        # With K = 0 no step is taken: any optimizer will do, the plainest is SGD.
        optimizer = self.local_optimizer or partial(torch.optim.SGD, lr=0.0)
        solver = LocalSolver(
            self.modules, optimizer, self.local_optimizer_state, self.hypergradient
        )
        if self.checkpointer is not None and solver.keep_state:
            self.checkpointer.add_recoverable("local_solver", solver)
        return solver

    def _wrap_distributed(self):
        """Called by ``on_fit_start`` once modules are final, before recovery.

        Ranks start from the same θ; no wrapper is needed, as gradients are added up in
        ``global_step``.
        """
        broadcast_module(self.modules)
        _ = self.local_solver  # made here, so that a kept state is recovered

    def anneal(self, iteration):
        """Set local and global learning rates for an iteration, in step."""
        if self.lr_schedule is not None:
            optimizers = [*self.global_optimizers(), self.local_solver.optimizer]
            scale_rates(optimizers, self.lr_schedule(self.epoch, iteration))
