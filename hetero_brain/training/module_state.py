"""What passes change besides parameters: in modules, metrics and schedulers."""

import torch

KINDS = {torch.Tensor, int, float, type(None)}
USUAL = {*vars(torch.nn.Module())}  # what every module has


class ModuleState:
    """The buffers of modules, and the tensors, numbers and lengths of lists among the
    attributes of modules and of some other objects.

    These are, for example, the running statistics of SpeechBrain's
    ``InputNormalization``, the scores of its ``MetricStats``, and the steps that its
    schedulers count. A list is shortened to the length that it had.

    Arguments
    ---------
    modules : iterable of torch.nn.Module
        All modules; those within them are not looked for.
    others : callable
        Returns the attributes of the other objects, as dictionaries; called for each
        snapshot.

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

    def __init__(self, modules, others=list):
        self.modules, self.others = list(modules), others
        # PyTorch's own modules keep what they change in buffers.
        self.with_attributes = [
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
        attributes, lengths = [], []
        for of_thing in (*map(vars, self.with_attributes), *self.others()):
            for name, value in of_thing.items():
                if type(value) is list:
                    lengths.append((value, len(value)))
                elif type(value) in KINDS and name not in USUAL:
                    attributes.append((of_thing, name, value, copied(value)))
        return buffers, attributes, lengths

    @torch.no_grad()
    def restore(self, snapshot):
        """Return to the state of a snapshot."""
        buffers, attributes, lengths = snapshot
        for registered, name, buffer, saved in buffers:
            # A forward pass may have registered another tensor under this name.
            registered[name] = buffer.copy_(saved)
        for of_thing, name, value, saved in attributes:
            of_thing[name] = value if saved is None else value.copy_(saved)
        for value, length in lengths:
            del value[length:]

    @torch.no_grad()
    def restore_unless(self, finite, snapshot):
        """Return to the tensors of a snapshot unless ``finite``, a scalar of bool on the
        device, for which the host does not wait."""
        buffers, attributes, _ = snapshot
        for registered, name, _, before in buffers:
            now = registered[name]
            if now is not None and now.shape == before.shape:
                now.copy_(torch.where(finite.to(now.device), now, before))
        for of_thing, name, value, before in attributes:
            now = of_thing.get(name)
            before = value if before is None else before
            if torch.is_tensor(now) and torch.is_tensor(before):
                if now.shape == before.shape:
                    at = finite.to(now.device)
                    of_thing[name] = torch.where(at, now, before.to(now.device))


def copied(value):
    """A copy of a tensor that passes may write to; None for anything else, such as the
    activations that a module has kept."""
    if torch.is_tensor(value) and value.grad_fn is None and not value.is_inference():
        return value.detach().clone()
    return None
