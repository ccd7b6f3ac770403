"""Local solves of the bilevel problem, after which the shared weights θ are restored.

Deals with parameters, gradients and optimizers only, not with speech or SpeechBrain's
training loop. Source: PTLOC, arXiv:2508.19990, section "Update" (eqs. 5-12).
"""

from collections import defaultdict
from contextlib import contextmanager
from functools import cached_property

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .training.gradients import laid_out
from .training.local_states import LocalStates
from .training.module_state import ModuleState
from .training.requirements import second_derivatives
from .training.weights import TwoWeights


class LocalSolver(TwoWeights):
    """Takes local steps φ ← φ − α∇ℓ_i(φ) from θ, and restores θ bit for bit.

    The model always computes with its own parameters, so that any ``compute_forward``
    works unchanged: the first local step copies θ to φ and points the parameters at φ's
    memory; the end of :meth:`solve` points them back at θ's memory, which was never
    written to. The local optimizer steps on φ (same memory, own ``.grad``), so a local
    gradient never reaches the ``.grad`` of a parameter.

    Arguments
    ---------
    module : torch.nn.Module
        Holds the buffers, and θ by default: its parameters that require gradients when a
        solve begins. Already on its device.
    optimizer : callable
        Factory of the local optimizer, e.g. ``partial(torch.optim.SGD, lr=0.03)``;
        called once with the list of parameters.
    state : str
        ``fresh``: every solve starts with an empty optimizer state.
        ``per_domain``: each domain keeps its own from one solve to the next.
    hypergradient : str
        ``first_order``: ∇ℓ_i(φ_K) itself. ``exact``: differentiated through the K
        steps, for small studies; stores every φ_k.
    parameters : callable
        Returns the parameters that θ is chosen from, if they are not those of ``module``;
        called at the first solve.

    Raises
    ------
    ValueError
        ``exact`` with a local optimizer other than SGD with a single learning rate and
        without momentum.

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

    def __init__(
        self,
        module,
        optimizer,
        state="fresh",
        hypergradient="first_order",
        parameters=None,
    ):
        super().__init__(parameters or module.parameters)
        self.factory = optimizer
        self.keep_state = state == "per_domain"
        self.states = LocalStates()  # with per_domain
        self.exact = hypergradient == "exact"
        self.module_state = ModuleState(module.modules())
        self.after_theta = None  # the state of modules after the pass at θ
        self.finite = None  # scalar of bool: whether this solve was, once it is known
        self.trajectory = []  # exact: (φ_k, which parameters moved, closure of ℓ_i)
        local = optimizer([torch.nn.Parameter(torch.zeros(1))])
        group, *others = local.param_groups
        plain = type(local) is torch.optim.SGD and not (
            others or group["momentum"] or group["maximize"]
        )
        if self.exact and not plain:
            raise ValueError(
                "hypergradient: exact differentiates through plain gradient steps; "
                "set local_optimizer to torch.optim.SGD with a single learning rate and "
                "without momentum, or hypergradient to first_order."
            )

    @cached_property
    def optimizer(self):
        """The local optimizer. It skips what is frozen, which has no gradient."""
        return self.factory([*self.phi_of.values()])

    @contextmanager
    def solve(self, domain=None):
        """One local solve: θ on entry, φ inside, θ again on exit or exception. Without a
        domain, the optimizer starts and ends without a state.

        An exception also restores the modules' state of the entry and resets the domain's
        optimizer state: non-finite values left in them by a batch would persist. So does
        a solve that was not finite, by :attr:`finite` and by :meth:`forget`.
        """
        self.select()
        self.optimizer.state = defaultdict(dict)
        if self.keep_state and domain is not None:
            self.optimizer.state = self.states.of(domain, self.optimizer)
        entry, self.finite = self.module_state.copy(), None
        try:
            yield self
        except BaseException:
            self.after_theta = entry
            self.forget(domain)
            raise
        finally:
            self._restore()
        if self.finite is not None:
            self.module_state.restore_unless(self.finite, entry)

    def forget(self, domain):
        """Start the next solve of a domain with an empty optimizer state."""
        if domain in self.states:
            self.states[domain] = defaultdict(dict)

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
            moved = [g is not None for g in grads]
            self.trajectory.append((phi, moved, loss_closure))
        if self.theta:
            self._optimizer_step(grads)
        else:
            self._first_step(grads)

    def _optimizer_step(self, grads):
        for phi, grad in zip(self.phi, grads):
            phi.grad = None if grad is None else laid_out(grad, phi)
        self.optimizer.step()
        for phi in self.phi:
            phi.grad = None

    def _first_step(self, grads):
        """φ_1 from φ_0 = θ. The state of modules is copied here, after the forward pass
        at θ: the running statistics restored later are those of θ, not of φ."""
        self.copy_to_phi()
        self._optimizer_step(grads)
        self.point_at_phi()
        self.after_theta = self.module_state.copy()

    def _restore(self):
        """Restore θ, and the modules as the forward pass at θ left them."""
        self.point_at_theta()
        if self.after_theta is not None:
            self.module_state.restore(self.after_theta)
        self.after_theta, self.trajectory = None, []

    def hypergradient(self, grads):
        """The domain's gradient with respect to θ, from ∇ℓ_i(φ_K).

        To first order it is ∇ℓ_i(φ_K): every Hessian of the chain rule is taken as zero
        (eq. 10). For the exact one, the K steps φ_{k+1} = φ_k − α(∇ℓ_i(φ_k) + λφ_k), with
        weight decay λ, give v_k = (1 − αλ) v_{k+1} − α ∇²ℓ_i(φ_k) v_{k+1}, from
        v_K = ∇ℓ_i(φ_K) down to v_0 (eq. 9): one Hessian-vector product per step.

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
        last = [p.detach().clone() for p in self.params] if self.trajectory else None
        for phi, moved, loss_closure in reversed(self.trajectory):
            with torch.no_grad():
                torch._foreach_copy_(self.params, phi)
            product = self._hessian_product(loss_closure, grads)
            # SGD skips a parameter without a gradient: it does not decay either.
            decayed = [
                v if v is None or not m else v - decay * v for v, m in zip(grads, moved)
            ]
            grads = [
                v if h is None else -lr * h if v is None else v - lr * h
                for v, h in zip(decayed, product)
            ]
        if last is not None:
            with torch.no_grad():
                torch._foreach_copy_(self.params, last)
        return grads

    def _hessian_product(self, loss_closure, vector):
        """∇²ℓ_i · vector at the current weights; None where it is structurally zero."""
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            gradient = torch.autograd.grad(
                loss_closure(), self.params, create_graph=True, allow_unused=True
            )
            differentiable = [
                (g, v)
                for g, v in zip(gradient, vector)
                if g is not None and g.requires_grad and v is not None
            ]
            if not differentiable:
                return [None] * len(self.params)
            outputs, vectors = zip(*differentiable)
            return second_derivatives(outputs, self.params, vectors)
