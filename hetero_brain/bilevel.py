"""Local solves of the bilevel problem: away from the shared weights θ and exactly back.

Knows parameters, gradients and optimizers, nothing of speech or of SpeechBrain's
training loop. Source: PTLOC, arXiv:2508.19990, section "Update" (eqs. 5-12).
"""

from collections import ChainMap, defaultdict
from contextlib import contextmanager
from functools import partial

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

from .training.gradients import laid_out
from .training.parallel import gathered, rank_and_size


@partial(register_checkpoint_hooks, save_on_main_only=False)
class LocalSolver:
    """Takes local steps φ ← φ − α∇ℓ_i(φ) from θ, and gives θ back bit for bit.

    The model always computes with its own parameters, so that any
    ``compute_forward`` works unchanged: the first local step copies θ to φ and points
    the parameters to φ's memory, leaving :meth:`solve` points them back to θ's, which
    nothing has touched. The local optimizer steps on φ (same memory, own ``.grad``), so
    a local gradient never reaches the ``.grad`` of a parameter.

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
        ``exact`` with a local optimizer that is not SGD of one rate without momentum.

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
        self.params = [p for p in module.parameters() if p.requires_grad]
        self.phi = [torch.nn.Parameter(p.data) for p in self.params]
        self.optimizer = optimizer(self.phi)
        self.keep_state = state == "per_domain"
        self.states = {}  # domain → optimizer state, with per_domain
        self.solved = set()  # those domains that this process solves
        self.blocks = []  # φ's memory, one block a dtype, from the first local step on
        self.theta = []  # θ's memory, while the parameters point to φ's
        self.exact = hypergradient == "exact"
        self.modules = list(module.modules())
        self.buffers = []  # (where, name, buffer, the values it gets back at the end)
        self.trajectory = []  # with exact: (φ_k, what moves, closure: ℓ_i at φ_k)
        group, *others = self.optimizer.param_groups
        plain = type(self.optimizer) is torch.optim.SGD and not (
            others or group["momentum"] or group["maximize"]
        )
        if self.exact and not plain:
            raise ValueError(
                "hypergradient: exact differentiates through plain gradient steps; "
                "set local_optimizer to torch.optim.SGD of one rate and without "
                "momentum, or hypergradient to first_order."
            )

    @contextmanager
    def solve(self, domain):
        """One local solve: θ on entry, φ inside, θ again on exit or exception.

        After an exception the buffers, too, are those of the entry, and a domain's own
        optimizer state begins afresh: what a batch that is not finite left in them would
        stay for ever.
        """
        self.optimizer.state = defaultdict(dict)
        if self.keep_state:
            self.optimizer.state = self.states.setdefault(domain, defaultdict(dict))
            self.solved.add(domain)
        entry = self._copy_buffers()
        try:
            yield self
        except BaseException:
            self.buffers = entry
            if self.keep_state:
                self.states[domain] = defaultdict(dict)
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
        if self.theta:
            self._step(grads)
        else:
            self._leave(grads)

    def _step(self, grads):
        for phi, grad in zip(self.phi, grads):
            phi.grad = None if grad is None else laid_out(grad, phi)
        self.optimizer.step()
        for phi in self.phi:
            phi.grad = None

    def _leave(self, grads):
        """φ_1 from φ_0 = θ. Buffers are copied after the forward pass at θ has updated
        them (running statistics), so that they keep those of θ, not of φ."""
        if not self.blocks:
            self._allocate()
        torch._foreach_copy_(self.phi, self.params)
        self._step(grads)
        self.theta = [p.data for p in self.params]
        for param, phi in zip(self.params, self.phi):
            param.data = phi.data
        self.buffers = self._copy_buffers()

    def _allocate(self):
        """Give φ memory of its own, in the layouts of θ."""
        by_dtype = defaultdict(list)
        for phi in self.phi:
            by_dtype[phi.dtype].append(phi)
        for members in by_dtype.values():
            # Each begins at a multiple of 64 elements, as kernels like it.
            sizes = [-(-phi.numel() // 64) * 64 for phi in members]
            self.blocks.append(members[0].data.new_zeros(sum(sizes)))
            for phi, part in zip(members, self.blocks[-1].split(sizes)):
                strides = torch.empty_like(phi, device="meta").stride()
                phi.data = part.as_strided(phi.shape, strides)

    def _copy_buffers(self):
        return [
            (module._buffers, name, buffer, buffer.clone())
            for module in self.modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    @torch.no_grad()
    def _restore(self):
        """θ again, and the buffers of its forward pass."""
        for param, theta in zip(self.params, self.theta):
            param.data = theta
        for places, name, buffer, saved in self.buffers:
            places[name] = buffer.copy_(saved)  # a forward pass may have put a new one
        self.theta, self.buffers, self.trajectory = [], [], []

    @torch.no_grad()
    def check(self):
        """0 while φ is finite, NaN else, without a wait for the device."""
        if not self.theta:
            return 0.0
        kinds = [torch.promote_types(b.dtype, torch.float) for b in self.blocks]
        return 0 * sum(b.sum(dtype=kind) for b, kind in zip(self.blocks, kinds))

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
        """Write the states of the domains of all ranks; every rank must call it."""
        packed = {}
        for domain, state in self.states.items():
            self.optimizer.state = state
            packed[domain] = tree_map_only(
                torch.Tensor, torch.Tensor.cpu, self.optimizer.state_dict()["state"]
            )
        of_ranks = gathered({key: packed[key] for key in self.solved})
        if rank_and_size()[0] == 0:
            torch.save({**packed, **dict(ChainMap(*of_ranks))}, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        groups = self.optimizer.state_dict()["param_groups"]
        self.states.clear()
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for domain, state in saved.items():
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.states[domain] = self.optimizer.state
