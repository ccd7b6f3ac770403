"""What forward passes change in modules, besides parameters."""

import torch

KINDS = {torch.Tensor, int, float, type(None)}
USUAL = {*vars(torch.nn.Module())}  # what every module has


class ModuleState:
    """The buffers of modules, and the tensors and numbers among their other attributes.

    The latter are, for example, the running statistics of SpeechBrain's
    ``InputNormalization``. A tensor among them is restored if a pass has replaced it, but
    not if a pass has written into it.

    Arguments
    ---------
    modules : iterable of torch.nn.Module
        All modules; those within them are not looked for.

    Example
    -------
    >>> norm = torch.nn.BatchNorm1d(2)
    >>> state = ModuleState([norm])
    >>> snapshot = state.copy()
    >>> _ = norm(torch.rand(3, 2))
    >>> state.restore(snapshot)
    >>> norm.num_batches_tracked.item()
    0
    """

    def __init__(self, modules):
        self.modules = list(modules)
        # PyTorch's own modules keep what they change in buffers.
        self.others = [
            m for m in self.modules if not type(m).__module__.startswith("torch.nn.")
        ]

    def copy(self):
        """A snapshot of the state, for the other methods."""
        buffers = [
            (module._buffers, name, buffer, buffer.clone())
            for module in self.modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        attributes = [
            (vars(module), name, value)
            for module in self.others
            for name, value in vars(module).items()
            if type(value) in KINDS and name not in USUAL
        ]
        return buffers, attributes

    @torch.no_grad()
    def restore(self, snapshot):
        """Return to the state of a snapshot."""
        buffers, attributes = snapshot
        for registered, name, buffer, saved in buffers:
            # A forward pass may have registered another tensor under this name.
            registered[name] = buffer.copy_(saved)
        for of_module, name, value in attributes:
            of_module[name] = value

    @torch.no_grad()
    def restore_unless(self, finite, snapshot):
        """Return to the tensors of a snapshot unless ``finite``, a scalar of bool on the
        device, for which the host does not wait."""
        buffers, attributes = snapshot
        for registered, name, _, before in buffers:
            now = registered[name]
            if now is not None and now.shape == before.shape:
                now.copy_(torch.where(finite.to(now.device), now, before))
        for of_module, name, before in attributes:
            now = of_module.get(name)
            if torch.is_tensor(now) and torch.is_tensor(before) and now is not before:
                if now.shape == before.shape:
                    at = finite.to(now.device)
                    of_module[name] = torch.where(at, now, before.to(now.device))
