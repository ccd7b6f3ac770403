"""The Brain whose ``fit_batch`` is one iteration of PTLOC.

Source: X. Cui, A. F. M. Saif, B. Kingsbury, T. Chen, "Heterogeneous Self-Supervised
Acoustic Pre-Training with Local Constraints", arXiv:2508.19990, Algorithm 1.
"""

import math
from contextlib import contextmanager
from functools import cached_property, partial

import speechbrain as sb
import torch

from .bilevel import LocalSolver
from .data.loading_brain import LoadingBrain
from .domain_batch import NothingToLearn, mean_divisors
from .training.gradients import (
    accumulate,
    divide,
    gradients,
    loss_scale,
    total_norm,
    zero_unless,
)
from .training.module_state import ModuleState
from .training.parallel import (
    broadcast_module,
    drop_absent,
    gathered,
    keep_once,
    reduce_gradients,
)
from .training.requirements import refuse_own_fit_batch, scalar
from .training.rng import RandomState, derive_seed
from .training.settings import brain_settings
from .training.solves import Solve, fetched, sums


class HeteroBrain(LoadingBrain):
    """Pre-trains any model on batches of several domains, by CSSL or PTLOC.

    Subclasses define ``compute_forward`` and ``compute_objectives`` on ordinary
    batches, exactly as for ``sb.Brain``; the train loader yields global batches, i.e.
    sequences of :class:`DomainBatch`. The arguments are those of ``sb.Brain``; the
    settings of the bilevel update are read from ``hparams``:

    ``local_steps`` : int
        K, the local steps from θ on each domain. 0 (default) is CSSL.
    ``local_optimizer`` : callable
        Factory of the local optimizer, with its ``lr`` α; needed when K > 0.
    ``local_optimizer_state`` : str
        ``fresh`` (default) in every solve, or kept ``per_domain``.
    ``hypergradient`` : str
        ``first_order`` (default; eq. 10) or ``exact`` (through the K steps).
    ``domain_weights`` : dict
        Weight of each domain in the mean; equal by default.
    ``lr_schedule`` : callable
        (epoch, iteration) → factor on all learning rates, local and global.
    ``cosine_interval`` : int
        Iterations between measurements of the cosines between the domains'
        hypergradients; 0 (default): never. Needs host memory for M gradients.
    ``angle_interval`` : int
        Iterations between measurements of the angle between the updates of PTLOC and
        CSSL (10); 0: never. Needs memory for two more gradients.
    ``solve_seed`` : int
        If given, dropout and augmentation of a local solve are drawn from it, the
        iteration and the domain, so that any iteration can be replayed alone.

    A key with a wrong value or a misspelling is a ValueError, which names all of them.

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
        refuse_own_fit_batch(self, HeteroBrain)
        settings = brain_settings(hparams or {})
        super().__init__(modules, opt_class, hparams or {}, *args, **kwargs)
        vars(self).update(settings)
        self.random_state = RandomState(self.device)

    def fit_batch(self, global_batch):
        """One iteration of PTLOC (Algorithm 1): θ ← θ − β (1/M) Σ_i ∇ℓ_i(φ_K^i).

        Arguments
        ---------
        global_batch : sequence of DomainBatch
            The batches of the M domains of this iteration; on several ranks, those of
            this rank, preferably as a :class:`Share`.

        Returns
        -------
        torch.Tensor
            Detached loss at φ_K on the CPU, averaged over the domains that were finite;
            NaN if none was.
        """
        self.anneal(self.iteration)
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(global_batch, should_step)
        done = []
        for domain_batch, divisor in zip(global_batch, self.divisors(global_batch)):
            with self.local_solve(domain_batch) as phi:  # φ_0 = θ, restored on exit
                for k in range(self.local_steps):  # φ_{k+1} = φ_k − α∇ℓ_i(φ_k): eq. 6
                    grads, _ = self.gradient(domain_batch, k)
                    phi.step(grads, partial(self.loss, domain_batch, k))
                    del grads  # one gradient in memory at a time
                grads, outputs = self.gradient(domain_batch, self.local_steps, divisor)
                self.accumulate(grads)  # g ← g + ∇ℓ_i(φ_K)/M: eqs. 10, 11
                del grads
                figures = self.losses_and_norms()
                done.append(Solve(domain_batch, 1 / divisor, figures, outputs))
        loss, outputs = self.global_step(done, should_step)  # θ ← θ − β g: eq. 12
        self.on_fit_batch_end(global_batch, outputs, loss, should_step)
        self.end_iteration(loss)
        return loss

    @contextmanager
    def local_solve(self, domain_batch):
        """The local solve of one domain, which is left out if it has nothing to learn.

        All passes of a solve start from the same random state, so that ℓ_i is the same
        function at both levels, including dropout. θ is restored on exit.
        """
        if self.solve_seed is not None:
            keys = self.solve_seed, self.iteration, domain_batch.unit
            if accumulated := self.step % self.grad_accumulation_factor:
                keys += (accumulated,)
            self.random_state.seed(derive_seed(*keys))
        self.random_state.keep()
        self._losses_and_norms = []  # one pair per pass of this solve
        try:
            with self.local_solver.solve(domain_batch.unit) as phi, self.alone():
                yield phi
        except NothingToLearn as reason:
            self.leave_out(domain_batch.domain, reason)

    def batch_of(self, domain_batch, k):
        """The batch of local step k, or that of the hypergradient for k = K."""
        batches = domain_batch.batches
        return batches[-1 if k == self.local_steps else k % len(batches)]

    def forward_pass(self, domain_batch, k):
        """The outputs of ``compute_forward`` on the batch of local step k, and the scalar
        ℓ_i with its graph, at the current weights."""
        batch, self.local_step = self.batch_of(domain_batch, k), k
        self.random_state.restore()
        with self.training_ctx:
            outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        return outputs, scalar(loss, self)

    def backward_pass(self, domain_batch, k, divisor):
        """Outputs and loss of :meth:`forward_pass`, and the gradient of ℓ_i / divisor."""
        outputs, loss = self.forward_pass(domain_batch, k)
        self.check_graph(loss)
        grads = gradients(loss / divisor, self.local_solver.params, self.scaler)
        return outputs, loss, grads

    def loss(self, domain_batch, k):
        """The loss of :meth:`forward_pass`."""
        return self.forward_pass(domain_batch, k)[1]

    def gradient(self, domain_batch, k, divisor=1):
        """The gradient of ℓ_i / divisor, and the outputs of ``compute_forward``.

        At k = K the gradient is the hypergradient, which differs from ∇ℓ_i if exact. It
        is zero if any pass of this solve was not finite.
        """
        outputs, loss, grads = self.backward_pass(domain_batch, k, divisor)
        loss, norm = loss.detach().float().squeeze(), loss.new_zeros(())
        last = k == self.local_steps
        if not last:
            self.drop_frozen(grads)
        else:  # A non-finite local gradient made φ non-finite, so checking φ is enough.
            norm = norm + self.local_solver.check()
            grads = self.local_solver.hypergradient(grads)  # through K steps if exact
        if last or self.scaler.is_enabled():  # fp16 has to know which pass overflowed
            norm = norm + total_norm(grads) * divisor
        self._losses_and_norms.append(torch.stack([loss, norm.float()]))
        if last:
            self.local_solver.finite = finite = self.losses_and_norms().isfinite().all()
            zero_unless(finite, grads)
        self.geometry.add_pass(domain_batch.domain, k, grads, divisor)
        return grads, outputs

    def losses_and_norms(self):
        """(passes of this solve so far, 2): loss and gradient norm of each."""
        return torch.stack(self._losses_and_norms)

    def observe(self, domain_batch, outputs):
        """Called after an iteration for each finite domain of this rank with the outputs
        of ``compute_forward`` at φ_K; does nothing. Override it to log figures with
        ``self.monitor.add(domain, name=value)``, best as 0-dimensional tensors.
        """

    def divisors(self, global_batch):
        """Divisor of each domain's loss that makes the sum the weighted mean, over all
        global batches that are accumulated before a step."""
        own = [domain_batch.domain for domain_batch in global_batch]
        domains = getattr(global_batch, "domains", None) or sum(gathered(own), [])
        divisors = mean_divisors(own, domains, self.domain_weights)
        return [divisor * self.grad_accumulation_factor for divisor in divisors]

    def accumulate(self, grads):
        """Add a domain's share of the hypergradient to ``.grad``, as backward does."""
        accumulate(self.local_solver.params, grads, self.scaler)

    def global_step(self, done, should_step=True):
        """SpeechBrain's optimizer step on the mean over the domains that were finite.

        Here the host waits for the device, once in an iteration.

        Arguments
        ---------
        done : list of Solve
            The local solves of this rank. If those of no rank were finite, θ and the
            optimizer stay unchanged.
        should_step : bool
            False while more global batches are to be accumulated.

        Returns
        -------
        loss : torch.Tensor
            The mean loss, on the CPU; NaN if no domain was finite.
        outputs : list
            Those of this rank's finite domains.
        """
        params = self.local_solver.params if should_step else []
        scaled = self.scaler.is_enabled()
        scale = loss_scale(self.scaler, self.device)
        own = sums(done, scaled, self.wants_to_stop(), self.device)
        figures, ranks, *passes = fetched(done, *reduce_gradients(params, own))
        used, left_out, overflowed, self.stopping, loss = figures
        for _ in range(round(left_out)):
            self.check_loss_isfinite(torch.tensor(math.nan))  # nonfinite_patience
        finite = []
        for solve, figures in zip(done, passes):
            if self.record_solve(solve.domain_batch.domain, figures):
                self.observe(solve.domain_batch, solve.outputs)
                finite.append(solve.outputs)
            else:
                self.local_solver.forget(solve.domain_batch.unit)
        self.used += used
        self.overflowed |= bool(overflowed)
        if should_step:
            drop_absent(params, ranks)
            if self.used == 0:
                self.zero_grad(set_to_none=True)
                self.optimizer_step += 1
            else:
                if not math.isclose(self.used, 1, rel_tol=1e-6):
                    divide(params, self.used)
                self.optimizers_step()
            keep_once(params)
            if self.overflowed:
                self.scaler.update(scale * self.scaler.get_backoff_factor())
            self.used, self.overflowed = 0.0, False
        return torch.tensor(loss / used if used else math.nan), finite

    @cached_property
    def local_solver(self):
        """The :class:`LocalSolver` of this model."""
        # With K = 0 no local step is taken, so any optimizer will do.
        optimizer = self.local_optimizer or partial(torch.optim.SGD, lr=0.0)
        kinds = self.local_optimizer_state, self.hypergradient
        solver = LocalSolver(self.modules, optimizer, *kinds, self.all_parameters)
        solver.module_state = ModuleState(self.all_modules(), self.counting_objects)
        return solver

    def _wrap_distributed(self):
        """Called by ``on_fit_start`` before recovery: broadcasts θ, without a wrapper."""
        broadcast_module(self.modules)
        _ = self.local_solver  # created now, so that its states are recovered
