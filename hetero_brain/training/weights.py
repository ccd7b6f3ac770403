"""The parameters of a model, and a copy of them that they can be pointed at."""

from collections import defaultdict
from functools import cached_property

import torch


class TwoWeights:
    """The shared weights θ, and the memory of their copy φ.

    Arguments
    ---------
    parameters : callable
        Returns the parameters of a run, those included that are frozen for now; called
        when they are first needed.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        self.selected = None  # the parameters of θ, and φ, aligned
        self.blocks = []  # φ's memory, one block per dtype, once it is needed
        self.theta = []  # θ's memory, while the parameters point at φ's

    @cached_property
    def phi_of(self):
        """Parameter → its φ, also of the parameters that are frozen for now."""
        return {p: torch.nn.Parameter(p.data) for p in self.parameters()}

    @property
    def params(self):
        """θ: the parameters that required gradients at the last :meth:`select`."""
        return (self.selected or self.select())[0]

    @property
    def phi(self):
        """φ, aligned with :attr:`params`."""
        return (self.selected or self.select())[1]

    def select(self):
        """Choose θ anew, since a run may freeze and unfreeze parameters."""
        params = [p for p in self.phi_of if p.requires_grad]
        if self.selected is None or [*map(id, params)] != [*map(id, self.selected[0])]:
            for param, phi in self.phi_of.items():
                phi.data = param.data  # lets go of memory that φ had
            self.selected, self.blocks = (params, [self.phi_of[p] for p in params]), []
        return self.selected

    def copy_to_phi(self):
        """Copy θ to φ, to which the parameters do not point yet."""
        if not self.blocks:
            self._allocate()
        torch._foreach_copy_(self.phi, self.params)

    def _allocate(self):
        """Give φ memory of its own, with the strides of θ."""
        by_dtype = defaultdict(list)
        for phi in self.phi:
            by_dtype[phi.dtype].append(phi)
        for members in by_dtype.values():
            # Each starts at a multiple of 64 elements: aligned for vectorised kernels.
            sizes = [-(-phi.numel() // 64) * 64 for phi in members]
            self.blocks.append(members[0].data.new_zeros(sum(sizes)))
            for phi, memory in zip(members, self.blocks[-1].split(sizes)):
                strides = torch.empty_like(phi, device="meta").stride()
                phi.data = memory.as_strided(phi.shape, strides)

    def point_at_phi(self):
        """Have the model compute with φ."""
        self.theta = [p.data for p in self.params]
        for param, phi in zip(self.params, self.phi):
            param.data = phi.data

    def point_at_theta(self):
        """Have the model compute with θ again."""
        for param, theta in zip(self.params, self.theta):
            param.data = theta
        self.theta = []

    @torch.no_grad()
    def distance(self):
        """‖φ − θ‖, of what their memory holds now; a scalar tensor of float64."""
        theta = self.theta or self.params
        lengths = [
            torch.linalg.vector_norm(a.data - b.data, dtype=torch.float64)
            for a, b in zip(self.phi, theta)
        ]
        return torch.linalg.vector_norm(torch.stack(lengths))

    @torch.no_grad()
    def check(self):
        """0 if φ is finite, otherwise NaN; a tensor, so that the host need not wait."""
        if not self.theta:
            return 0.0
        dtypes = [torch.promote_types(b.dtype, torch.float) for b in self.blocks]
        return 0 * sum(b.sum(dtype=dtype) for b, dtype in zip(self.blocks, dtypes))
