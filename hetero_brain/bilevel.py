"""Local solves of the bilevel problem: away from the shared weights θ and exactly back.

Knows parameters, gradients and optimizers, nothing of speech or of SpeechBrain's
training loop. Source: PTLOC, arXiv:2508.19990, section "Update" (eqs. 5-12).
"""

from collections import defaultdict
from contextlib import contextmanager

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch.nn.attention import SDPBackend, sdpa_kernel


@register_checkpoint_hooks
class LocalSolver:
    """Takes local steps φ ← φ − α∇ℓ_i(φ) from θ, in place, and restores θ bit for bit.

    The model always computes with its own parameters, so that any
    ``compute_forward`` works unchanged: a local step overwrites them, and leaving
    :meth:`solve` copies θ back from one flat snapshot. The local optimizer steps on
    *aliases* of the parameters (same storage, own ``.grad``), so a local gradient
    never reaches the ``.grad`` of a parameter.

    Arguments
    ---------
    module : torch.nn.Module
        Holds θ (its trainable parameters) and the buffers. On its final device.
    optimizer : callable
        Factory of the local optimizer, e.g. ``partial(torch.optim.SGD, lr=0.03)``;
        called once with the list of parameters.
    state : str
        ``fresh``: every solve starts with an empty optimizer state.
        ``per_domain``: each domain keeps its own from one solve to its next.
    hypergradient : str
        ``first_order``: ∇ℓ_i(φ_K) itself. ``exact``: differentiated through the K
        steps, for small studies; keeps every φ_k.

    Raises
    ------
    ValueError
        ``exact`` with a local optimizer that is not SGD without momentum.

    Example
    -------
    >>> model = torch.nn.Linear(2, 1)
    >>> before = model.weight.clone()
    >>> solver = LocalSolver(model, lambda p: torch.optim.SGD(p, lr=0.1))
    >>> with solver.solve("en") as phi:
    ...     loss = model(torch.ones(1, 2)).sum()
    ...     phi.step(torch.autograd.grad(loss, solver.params))
    ...     moved = not torch.equal(model.weight, before)
    >>> moved, torch.equal(model.weight, before), model.weight.grad
    (True, True, None)
    """

    def __init__(self, module, optimizer, state="fresh", hypergradient="first_order"):
        self.module = module
        self.params = [p for p in module.parameters() if p.requires_grad]
        self.aliases = [torch.nn.Parameter(p.data) for p in self.params]
        self.optimizer = optimizer(self.aliases)
        self.keep_state = state == "per_domain"
        self.states = {}  # domain → optimizer state, with per_domain
        self.flat = None  # the snapshot's memory, allocated at the first local step
        self.away = False  # whether the parameters hold φ and not θ
        self.exact = hypergradient == "exact"
        self.buffers = []  # (buffer, the copy it gets back when the solve ends)
        self.trajectory = []  # with exact: (φ_k, what moves, closure: ℓ_i at φ_k)
        if self.exact and not self._takes_plain_steps():
            raise ValueError(
                "hypergradient: exact differentiates through plain gradient steps; "
                "set local_optimizer to torch.optim.SGD without momentum, or "
                "hypergradient to first_order."
            )

    def _takes_plain_steps(self):
        return type(self.optimizer) is torch.optim.SGD and not any(
            group["momentum"] or group["maximize"]
            for group in self.optimizer.param_groups
        )

    @contextmanager
    def solve(self, domain):
        """One local solve: θ on entry, φ inside, θ again on exit or exception.

        After an exception the buffers, too, are those of the entry, and a domain's own
        optimizer state begins afresh: what a batch that is not finite left in them would
        stay for ever.
        """
        self.optimizer.state = (
            self.states.setdefault(domain, defaultdict(dict))
            if self.keep_state
            else defaultdict(dict)
        )
        entry = self._copy_buffers()
        try:
            yield self
        except BaseException:
            self.buffers = entry
            self.states.pop(domain, None)
            raise
        finally:
            self._restore()

    @torch.no_grad()
    def step(self, grads, loss_closure=None):
        """One local step with the optimizer: φ_k from φ_{k−1} (eq. 6).

        Arguments
        ---------
        grads : sequence of torch.Tensor or None
            ∇ℓ_i(φ_{k−1}), aligned with ``params``; None where ℓ_i does not depend on
            a parameter.
        loss_closure : callable
            Computes ℓ_i at the current weights; needed by the exact hypergradient.
        """
        if self.exact:
            phi = [p.detach().clone() for p in self.params]
            moves = [g is not None for g in grads]
            self.trajectory.append((phi, moves, loss_closure))
        if not self.away:
            self._snapshot()
        for alias, grad in zip(self.aliases, grads):
            alias.grad = grad
        self.optimizer.step()
        for alias in self.aliases:
            alias.grad = None

    def _snapshot(self):
        """Copy θ and the buffers. Buffers are copied after the forward pass at θ has
        updated them (running statistics), so that they keep those of θ, not of φ."""
        if self.flat is None:
            # cat promotes mixed precisions to the widest, which holds all exactly.
            self.flat = torch.cat([p.detach().flatten() for p in self.params])
            parts = self.flat.split([p.numel() for p in self.params])
            self.theta = [f.view_as(p) for f, p in zip(parts, self.params)]
        else:
            torch._foreach_copy_(self.theta, self.params)
        self.buffers = self._copy_buffers()
        self.away = True

    def _copy_buffers(self):
        return [(b, b.clone()) for b in self.module.buffers()]

    @torch.no_grad()
    def _restore(self):
        """Copy θ and the buffers back, bit for bit."""
        if self.away:
            torch._foreach_copy_(self.params, self.theta)
        for buffer, saved in self.buffers:
            buffer.copy_(saved)
        self.away, self.buffers, self.trajectory = False, [], []

    def hypergradient(self, grads):
        """The domain's gradient with respect to θ, from ∇ℓ_i(φ_K).

        First order it is ∇ℓ_i(φ_K): every Hessian of the chain rule is taken as zero
        (eq. 10). Exact, the K steps φ_{k+1} = φ_k − α(∇ℓ_i(φ_k) + λφ_k), λ the weight
        decay, give v_k = (1 − αλ) v_{k+1} − α ∇²ℓ_i(φ_k) v_{k+1}, from v_K = ∇ℓ_i(φ_K)
        down to v_0 (eq. 9), one Hessian-vector product a step.

        Arguments
        ---------
        grads : sequence of torch.Tensor or None
            ∇ℓ_i(φ_K), aligned with ``params``.

        Returns
        -------
        sequence of torch.Tensor or None
            Aligned with ``params``.
        """
        group = self.optimizer.param_groups[0]
        lr, decay = group["lr"], group["lr"] * group["weight_decay"]
        for phi, moves, loss_closure in reversed(self.trajectory):
            with torch.no_grad():
                torch._foreach_copy_(self.params, phi)
            product = self._hessian_product(loss_closure, grads)
            # A parameter that the step left alone has not decayed either.
            kept = [
                v if v is None or not m else v - decay * v for v, m in zip(grads, moves)
            ]
            grads = [
                v if h is None else -lr * h if v is None else v - lr * h
                for v, h in zip(kept, product)
            ]
        return grads

    def _hessian_product(self, loss_closure, vector):
        """∇²ℓ_i · vector at the current weights; None where it is structurally zero."""
        with sdpa_kernel(SDPBackend.MATH):  # fused attention differentiates only once
            slope = torch.autograd.grad(
                loss_closure(), self.params, create_graph=True, allow_unused=True
            )
            curved = [
                (s, v)
                for s, v in zip(slope, vector)
                if s is not None and s.requires_grad and v is not None
            ]
            if not curved:
                return [None] * len(self.params)
            outputs, vectors = zip(*curved)
            return torch.autograd.grad(outputs, self.params, vectors, allow_unused=True)

    @mark_as_saver
    def _save(self, path):
        packed = {}
        for domain, state in self.states.items():
            self.optimizer.state = state
            packed[domain] = self.optimizer.state_dict()["state"]
        torch.save(packed, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        groups = self.optimizer.state_dict()["param_groups"]
        self.states.clear()
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for domain, state in saved.items():
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.states[domain] = self.optimizer.state
