"""What passes change besides parameters: in modules, metrics and schedulers."""

import torch
from torch.utils.data import dataloader

from .parallel import gathered, rank_and_size

KINDS = {torch.Tensor, int, float, type(None)}
# An iterator of a loader is held, but not how far it has been read: see draws.py.
HELD = KINDS | {
    dataloader._SingleProcessDataLoaderIter,
    dataloader._MultiProcessingDataLoaderIter,
}
USUAL = {*vars(torch.nn.Module())}  # what every module has
OTHER = "other"  # what cannot be averaged over ranks


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
        self.initial = {
            place: value
            for place, (_, value) in self._values().items()
            if not torch.is_tensor(value)
        }

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
                elif type(value) in HELD and name not in USUAL:
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

    @torch.no_grad()
    def average_over_ranks(self, device):
        """Make the state equal on all ranks, which have seen other batches.

        Tensors of floating-point numbers, such as running means and variances, become
        their means over the ranks. Everything else becomes that of rank 0: integers, such
        as counts of batches, tensors whose shapes differ, and those numbers among the
        attributes that have changed on any rank since the beginning.

        Every rank must call it.

        Arguments
        ---------
        device : torch.device
            Where the ranks communicate.
        """
        own = self._values()
        kinds = {place: self._kind(place, value) for place, (_, value) in own.items()}
        of_ranks = gathered({place: kind for place, kind in kinds.items() if kind})
        places = [*dict.fromkeys(place for found in of_ranks for place in found)]
        means = [
            place
            for place in places
            if place in of_ranks[0]
            and of_ranks[0][place] != OTHER
            and all(found.get(place) == of_ranks[0][place] for found in of_ranks)
        ]
        # In double precision, the mean of equal numbers of single precision is exact.
        values = [own[place][1].flatten().to(device, torch.float64) for place in means]
        flat = torch.cat([*values, torch.zeros(0, dtype=torch.float64, device=device)])
        torch.distributed.all_reduce(flat)
        averages = (flat / rank_and_size()[1]).split([len(value) for value in values])
        others = [place for place in places if place not in means and place in own]
        sent = [{place: _on_host(own[place][1]) for place in others}]
        torch.distributed.broadcast_object_list(sent, src=0)
        for place, average in zip(means, averages):
            _put(*own[place], place, average.view(own[place][1].shape))
        for place in others:
            if place in sent[0]:
                _put(*own[place], place, sent[0][place])

    def _values(self):
        """(number of the module, name) → the dict that holds it, and the value."""
        others = {*self.with_attributes}
        return {
            (number, name): (holder, value)
            for number, module in enumerate(self.modules)
            for holder in (module._buffers, vars(module) if module in others else {})
            for name, value in holder.items()
            if type(value) in KINDS and name not in USUAL
        }

    def _kind(self, place, value):
        """Shape and dtype of what can be averaged; OTHER for what has to be that of rank
        0; None for a number that has not changed."""
        if torch.is_tensor(value):
            is_float = value.is_floating_point()
            return (tuple(value.shape), value.dtype) if is_float else OTHER
        before = self.initial.get(place)
        changed = type(before) is not type(value) or before != value
        return OTHER if changed else None


def copied(value):
    """A copy of a tensor that passes may write to; None for anything else, such as the
    activations that a module has kept."""
    if torch.is_tensor(value) and value.grad_fn is None and not value.is_inference():
        return value.detach().clone()
    return None


def _on_host(value):
    return value.detach().cpu() if torch.is_tensor(value) else value


def _put(holder, now, place, value):
    """Replace a value where it is held, a tensor in its own memory if it fits."""
    if torch.is_tensor(value) and torch.is_tensor(now):
        value = value.to(now.device, now.dtype)
        if torch.equal(now, value):
            return
        if now.shape == value.shape:
            value = now.copy_(value)
    holder[place[1]] = value
