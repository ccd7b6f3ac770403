"""The Brain whose ``fit_batch`` is one iteration of PTLOC.

Source: X. Cui, A. F. M. Saif, B. Kingsbury, T. Chen, "Heterogeneous Self-Supervised
Acoustic Pre-Training with Local Constraints", arXiv:2508.19990, Algorithm 1.
"""

import math
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from .bilevel import LocalSolver
from .domain_batch import DomainBatch
from .training import preemption
from .training.layout import laid_out
from .training.monitor import DomainMonitor
from .training.parallel import (
    broadcast_module,
    gathered,
    rank_and_size,
    reduce_gradients,
)
from .training.rng import derive_seed
from .training.settings import BRAIN_SETTINGS, check_settings

logger = get_logger(__name__)


class NothingToLearn(ValueError):
    """A batch has no loss, though nothing is wrong; ``compute_objectives`` may raise it.

    Its domain is left out of the iteration, or its batch out of the validation loss.
    """


class NonFiniteDomain(ArithmeticError):
    """The loss or the gradient of a domain is not finite."""

    def __init__(self, domain, loss, norm):
        super().__init__(f"domain {domain}: loss {loss:.4g}, gradient norm {norm:.4g}")
        self.loss_is_finite = math.isfinite(loss)


@partial(register_checkpoint_hooks, save_on_main_only=False)
class HeteroBrain(sb.Brain):
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
    ``log_interval``, ``cosine_interval`` : int
        Iterations between two log entries (100), and between two measurements of the
        cosines between the domains' hypergradients (0: never; M gradients in memory).
    ``loggers`` : list
        SpeechBrain train loggers that get every entry.
    ``seed`` : int
        If given, the randomness of an iteration (dropout) is drawn from (seed,
        iteration, domain), so that any iteration can be replayed alone.

    Raises
    ------
    ValueError
        Naming every key in ``hparams`` with a wrong or misspelt setting.

    Example
    -------
    >>> class Mean(HeteroBrain):
    ...     def compute_forward(self, batch, stage):
    ...         return self.modules.model(batch)
    ...
    ...     def compute_objectives(self, predictions, batch, stage):
    ...         return (predictions - 1).square().mean()
    >>> brain = Mean(
    ...     {"model": torch.nn.Linear(3, 1)},
    ...     opt_class=lambda p: torch.optim.SGD(p, lr=0.1),
    ...     hparams={
    ...         "local_steps": 1,
    ...         "local_optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
    ...     },
    ...     run_opts={"device": "cpu"},
    ... )
    >>> brain.init_optimizers()
    >>> loss = brain.fit_batch([DomainBatch("en", (torch.rand(4, 3),))])
    """

    def __init__(
        self,
        modules=None,
        opt_class=None,
        hparams=None,
        run_opts=None,
        checkpointer=None,
    ):
        settings = check_settings(hparams or {}, BRAIN_SETTINGS)
        super().__init__(modules, opt_class, hparams or {}, run_opts, checkpointer)
        vars(self).update(settings)
        if self.grad_accumulation_factor != 1:
            raise ValueError(
                f"grad_accumulation_factor is {self.grad_accumulation_factor}; an "
                "iteration accumulates over its domains already. Raise the seconds of "
                "a global batch instead."
            )
        if self.local_steps > 0 and self.local_optimizer is None:
            raise ValueError(
                f"local_optimizer: needed with local_steps: {self.local_steps}, e.g. "
                "!name:torch.optim.SGD with its lr"
            )
        self.monitor, self.dev_monitor = DomainMonitor(), DomainMonitor()
        self.nonfinite_count = 0  # as at the start of an epoch, for a lone fit_batch
        self.epoch = 1
        self.progress = None
        self.overflowed, self.faults = False, 0  # in this iteration
        self.leaving = False  # all ranks save after this iteration, and leave

    # ------------------------------------------------------------- Algorithm 1

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
        self.log_iteration(loss)
        return loss

    @contextmanager
    def local_solve(self, part):
        """The local solve of one domain; a domain that is not finite drops out of it.

        All passes of a solve start from one random state, so that ℓ_i is one function
        at both levels, dropout included. θ is back when the block is left.
        """
        if self.seed is not None:
            self._seed(derive_seed(self.seed, self.iteration, part.unit))
        self.random_state = self._get_random_state()
        self._losses_and_norms = []  # of each pass of this solve
        try:
            with self.local_solver.solve(part.unit) as phi:
                yield phi
        except NonFiniteDomain as fault:
            logger.warning(f"iteration {self.iteration}: {fault}; domain left out.")
            self.monitor.drop(part.domain)
            if self.scaler.is_enabled() and fault.loss_is_finite:
                self.overflowed = True  # of fp16: the scale is to blame, and lowered
            else:
                self.faults += 1
        except NothingToLearn as reason:
            logger.warning(
                f"iteration {self.iteration}: domain {part.domain}: {reason}; domain "
                "left out."
            )
            self.monitor.drop(part.domain)

    def forward_pass(self, part, k):
        """ℓ_i at the current weights, on the batch of local step k.

        Returns
        -------
        outputs : any
            What ``compute_forward`` returned.
        loss : torch.Tensor
            Scalar, with its graph.
        """
        last = k == self.local_steps
        batch = part.batches[-1 if last else k % len(part.batches)]
        self._set_random_state(self.random_state)
        with self.training_ctx:
            outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        return outputs, loss

    def loss(self, part, k):
        """The loss of :meth:`forward_pass`."""
        return self.forward_pass(part, k)[1]

    def gradient(self, part, k, divisor=1):
        """Value of ℓ_i and the gradient of ℓ_i / divisor at the current weights.

        Behind the last local step it is the hypergradient, which differs if exact.
        ``torch.autograd.grad`` leaves every ``.grad`` alone. Under fp16 the loss is
        scaled for the backward pass and the gradient unscaled behind it.

        Returns
        -------
        loss : torch.Tensor
            ℓ_i, undivided, detached.
        grads : list of torch.Tensor or None
            Aligned with ``local_solver.params``.
        outputs : any
            What ``compute_forward`` returned.

        Raises
        ------
        NonFiniteDomain
            A loss or a gradient of this solve was not finite; raised behind the last
            local step, so that the host waits for the device once a solve.
        """
        outputs, loss = self.forward_pass(part, k)
        params = self.local_solver.params
        scaled = self.scaler.scale(loss / divisor)
        grads = list(torch.autograd.grad(scaled, params, allow_unused=True))
        if self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            for i, grad in enumerate(grads):  # one by one: no second copy of them all
                grads[i] = None if grad is None else grad / scale
        loss, norm = loss.detach().float().squeeze(), loss.new_zeros(())
        last = k == self.local_steps
        if last:
            # A local gradient that was not finite has left a φ that is not.
            norm = norm + self.local_solver.check()
            grads = self.local_solver.hypergradient(grads)  # through K steps if exact
        if last or self.scaler.is_enabled():  # in fp16, which pass overflowed matters
            present = [g for g in grads if g is not None]
            norm = norm + torch.nn.utils.get_total_norm(present) * divisor
        self._losses_and_norms.append(torch.stack([loss, norm.float()]))
        if last:
            self.finish_solve(part, grads)
        self.observe(part, k, outputs)
        return loss, grads, outputs

    def finish_solve(self, part, grads):
        """Check the passes of a solve, and note what they tell."""
        passes = torch.stack(self._losses_and_norms).tolist()  # the one wait for a GPU
        for loss, norm in passes:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NonFiniteDomain(part.domain, loss, passes[-1][1])
        (first, _), (last, norm) = passes[0], passes[-1]
        self.monitor.add(
            part.domain,
            loss_at_theta=first,
            loss_at_phi=last,
            local_gain=first - last,
            hypergradient_norm=norm,
        )
        if self._is_due(self.cosine_interval):
            self.monitor.keep_gradient(part.domain, grads, self.local_solver.params)

    def observe(self, part, k, outputs):
        """Called once a pass with what ``compute_forward`` returned; does nothing.

        Override to add figures of an objective to the log with ``self.monitor.add(domain,
        name=value)``; a 0-dimensional tensor as value spares the wait for the device.
        """

    def divisors(self, global_batch):
        """What each domain's loss is divided by, so that the sum is the mean.

        M for equal weights, as sb.Brain divides by its accumulation factor; Σ_j w_j/w_i
        for ``domain_weights``.
        """
        own = [part.domain for part in global_batch]
        domains = own if rank_and_size()[1] == 1 else global_batch.domains
        if self.domain_weights is None:
            return [len(domains)] * len(own)
        if missing := {*domains} - set(self.domain_weights):
            raise ValueError(f"domain_weights: no weight for {sorted(missing)}")
        total = sum(self.domain_weights[domain] for domain in domains)
        return [total / self.domain_weights[domain] for domain in own]

    def accumulate(self, grads):
        """Add a domain's share of the hypergradient to ``.grad``, as backward does."""
        scale = self.scaler.get_scale()  # 1 but in fp16; undone by optimizers_step
        pairs = zip(self.local_solver.params, grads)
        pairs = [(param, grad) for param, grad in pairs if grad is not None]
        added = [(param.grad, grad) for param, grad in pairs if param.grad is not None]
        places = Counter(grad.untyped_storage().data_ptr() for _, grad in pairs)
        for param, grad in pairs:
            if param.grad is None:
                memory = grad.untyped_storage()
                alone = (
                    places[memory.data_ptr()] == 1 and memory.nbytes() == grad.nbytes
                )
                # No copy of a gradient that shares no memory, with another or in itself.
                own = grad if alone and scale == 1 else grad * scale
                param.grad = laid_out(own, param)
        if added:
            torch._foreach_add_(*zip(*added), alpha=scale)

    def global_step(self, finite):
        """SpeechBrain's optimizer step on the mean over the domains that were finite.

        With other ranks their shares of the mean are added first, once an iteration.

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
        scale = self.scaler.get_scale()
        params = self.local_solver.params
        loss = sum(loss * share for share, loss, _ in finite)
        used = sum(share for share, _, _ in finite)
        told = [used, self.faults, self.overflowed, preemption.requested()]
        loss = torch.as_tensor(loss).cpu()  # the wait for the device
        figures = torch.tensor([*told, 0], dtype=torch.float64)
        figures[-1] = loss
        figures = reduce_gradients(params, figures)
        used, faults, overflowed, leaving, loss = figures.double().tolist()
        self.overflowed, self.faults, self.leaving = False, 0, leaving > 0
        for _ in range(round(faults)):
            self.check_loss_isfinite(torch.tensor(math.nan))  # counts patience
        if used == 0:
            self.zero_grad(set_to_none=True)
            self.optimizer_step += 1
        else:
            if not math.isclose(used, 1, rel_tol=1e-6):
                for param in params:
                    if param.grad is not None:
                        param.grad.div_(used)
            self.optimizers_step()
        if overflowed:
            self.scaler.update(scale * self.scaler.get_backoff_factor())
        return torch.tensor(loss / used if used else math.nan)

    # ------------------------------------------------- what stands around it

    @property
    def iteration(self):
        """Iterations done since the phase began: updates of θ, dropped ones too."""
        return self.optimizer_step

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
        if self.lr_schedule is None:
            return
        factor = self.lr_schedule(self.epoch, iteration)
        for optimizer in [*self._optimizers(), self.local_solver.optimizer]:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor

    def make_dataloader(self, dataset, stage, ckpt_prefix="dataloader-", **kwargs):
        """As SpeechBrain's; but the items of a training set are global batches, so that
        there is nothing left to batch."""
        if stage == sb.Stage.TRAIN:
            kwargs.setdefault("batch_size", None)
        return super().make_dataloader(dataset, stage, ckpt_prefix, **kwargs)

    def on_stage_start(self, stage, epoch=None):
        """Remember the epoch, for the learning rates."""
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch

    def fit(self, *args, **kwargs):
        """As SpeechBrain's; asked to leave by a signal, it saves and does (see
        ``preemption``): behind the iteration, or behind the validation that it is in."""
        saves = self.checkpointer is not None
        with preemption.deferred(self.doing) if saves else nullcontext():
            super().fit(*args, **kwargs)
            if any(gathered(preemption.requested())):
                preemption.leave(saved=True)

    def doing(self):
        """What a run that is asked to leave still does, in words."""
        if self.progress is not None:
            return f"finishing iteration {self.iteration + 1} and saving"
        return f"finishing the validation of epoch {self.epoch} and saving"

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        due = super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)
        return due or self.leaving

    def _save_intra_epoch_ckpt(self):
        super()._save_intra_epoch_ckpt()
        if self.leaving:
            ddp_barrier()  # torchrun ends other ranks soon after one has left
            preemption.leave(saved=True)

    def _fit_train(self, train_set, epoch, enable):
        """As SpeechBrain's, under a progress bar that also shows the local gain, and
        started at this iteration where the loader can be."""
        if hasattr(sampler := getattr(train_set, "sampler", None), "start_at"):
            sampler.start_at(self.iteration)
            train_set = () if self.step == len(sampler) else train_set
        bar = tqdm(train_set, initial=self.step, dynamic_ncols=True, disable=not enable)
        faults = self.nonfinite_count if self.step else 0

        def rest():
            self.nonfinite_count = faults  # which SpeechBrain has set to 0
            if self.step:
                self.anneal(self.iteration - 1)  # for logs, if that was the last
            yield from bar

        with bar as self.progress:
            super()._fit_train(rest(), epoch, enable=False)
        self.progress = None

    def _fit_valid(self, valid_set, epoch, enable):
        """As SpeechBrain's, and a checkpoint, with all that the epoch has logged."""
        self.scores = {}
        super()._fit_valid(valid_set, epoch, enable)
        if self.checkpointer is not None:
            meta = {"epoch": epoch, **self.scores}
            self.checkpointer.save_and_keep_only(meta, num_to_keep=1)

    def on_fit_start(self):
        """As SpeechBrain's; logs go on from where they stood at the checkpoint."""
        self.log_positions = [None] * len(self.loggers)
        super().on_fit_start()
        if self.checkpointer is not None:
            for train_logger, position in zip(self.loggers, self.log_positions):
                if hasattr(train_logger, "resume"):
                    train_logger.resume(position, self.iteration)

    @mark_as_saver
    def _save(self, path):
        """Where a run stands between two iterations."""
        ranks = gathered(self.interval_state())
        if if_main_process():
            state = {
                "step": self.step,
                "avg_train_loss": self.avg_train_loss,
                "optimizer_step": self.optimizer_step,
                "nonfinite_count": self.nonfinite_count,
                "logs": [
                    train_logger.position()
                    if hasattr(train_logger, "position")
                    else None
                    for train_logger in self.loggers
                ],
                "ranks": ranks,
            }
            torch.save(state, path)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.optimizer_step = state["optimizer_step"]
        self.nonfinite_count = state["nonfinite_count"]
        self.log_positions = state["logs"]
        self.step, self.avg_train_loss = state["step"], state["avg_train_loss"]
        (rank, size), ranks = rank_and_size(), state["ranks"]
        if size == len(ranks):
            ranks = [ranks[rank]]
        elif rank > 0:
            ranks = []  # all to the first
        self.restore_interval(ranks)

    def interval_state(self):
        """What :meth:`interval_stats` is made of, as tensors and plain values."""
        return self.monitor.state()

    def restore_interval(self, states):
        """Take what :meth:`interval_state` gave, of this rank or of several."""
        self.monitor.restore(states)

    def evaluate_batch(self, batch, stage):
        """Evaluate a batch, or that of a :class:`DomainBatch`, noted for its domain."""
        if not isinstance(batch, DomainBatch):
            return super().evaluate_batch(batch, stage)
        try:
            loss = super().evaluate_batch(batch.batches[-1], stage)
        except NothingToLearn:
            self.dev_monitor.drop(batch.domain)
            self.step -= 1  # SpeechBrain's mean, which leaves NaN out, counts it too
            return torch.tensor(math.nan)
        self.dev_monitor.add(batch.domain, loss=loss.item())
        return loss

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """An entry at the end of a validation."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
        elif stage == sb.Stage.VALID:
            dev = self.dev_figures(stage_loss)
            self.log(train_stats={"loss": float(self.train_loss)}, valid_stats=dev)

    def dev_figures(self, stage_loss):
        """Losses over the batches of all ranks, of which ``stage_loss`` is this rank's
        mean: of all domains as ``loss``, and of each; NaN where no batch had one."""
        counts = self.dev_monitor.counts.items()
        batches = sum(count for (figure, _), count in counts if figure == "loss")
        dropped = any(gathered(bool(self.dev_monitor.dropped)))
        of_ranks = gathered((float(stage_loss), batches))
        total = sum(count for _, count in of_ranks)
        loss = sum(mean * (count / total if total else 1) for mean, count in of_ranks)
        if dropped and not total:
            loss = math.nan
        return {"loss": loss, **self.dev_monitor.pop()}

    def log_iteration(self, loss):
        """Progress bar always, loggers once an interval."""
        if self.progress is not None:
            gain = self.monitor.mean("local_gain")
            self.progress.set_postfix(loss=f"{loss:.4f}", gain=f"{gain:.4f}")
        if self._is_due(self.cosine_interval, done=True):
            self.log(train_stats=self.monitor.cosines())
        if self._is_due(self.log_interval, done=True):
            self.log(train_stats=self.interval_stats())

    def interval_stats(self):
        """Figures since the last entry, ``name/domain`` → float; starts them anew."""
        return self.monitor.pop()

    def log(self, **stats):
        """Give an entry to every logger, with epoch, iteration and learning rates."""
        meta = {"epoch": self.epoch, "iteration": self.iteration}
        meta["lr"] = self._optimizers()[0].param_groups[0]["lr"]
        if self.local_steps:
            meta["local_lr"] = self.local_solver.optimizer.param_groups[0]["lr"]
        for train_logger in self.loggers:
            train_logger.log_stats(meta, **stats)

    def _optimizers(self):
        """The global optimizers, also of a subclass that makes several."""
        return [*(self.optimizers_dict or {"optimizer": self.optimizer}).values()]

    def _is_due(self, interval, done=False):
        """Whether an interval ends with this iteration (counted already if done)."""
        return interval and (self.iteration + (not done)) % interval == 0

    def _seed(self, seed):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed asks all devices
        if self.device_type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def _get_random_state(self):
        if self.device_type == "cpu":
            return torch.get_rng_state(), None
        device = torch.get_device_module(self.device)
        return torch.get_rng_state(), device.get_rng_state()

    def _set_random_state(self, state):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.get_device_module(self.device).set_rng_state(state[1])
