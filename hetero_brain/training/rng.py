"""Seeds and random generators keyed by their purpose.

Everything random in a run is drawn from a generator keyed with, for example, the run's
seed, a purpose, a step and a domain. No draw depends on how many came before it, so a
step can be replayed alone, and a run can be resumed by other processes.
"""

import hashlib
import random
from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch


def derive_seed(*keys):
    """A seed that depends on the value, type and position of every key, and nothing else.

    Unlike Python's ``hash`` it is the same in every process and on every machine.

    Arguments
    ---------
    *keys : int or str
        What the seed is for, e.g. ``(seed, "mask", step, domain)``.

    Returns
    -------
    int
        In [0, 2**63), so that it also fits ``torch.manual_seed``.

    Raises
    ------
    TypeError
        If a key is neither an integer nor a string.

    Example
    -------
    >>> derive_seed(1234, "dropout", 7) == derive_seed(1234, "dropout", 7)
    True
    >>> derive_seed("ab", "c") == derive_seed("a", "bc")
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        if isinstance(key, Integral):
            kind, text = "i", str(int(key)).encode()
        elif isinstance(key, str):
            kind, text = "s", key.encode()
        else:
            raise TypeError(f"a seed key must be an int or a str, got {key!r}")
        # The length before each key makes the encoding of a list of keys unique.
        digest.update(f"{kind}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "big") >> 1


def generator(*keys):
    """A NumPy generator keyed with ``derive_seed(*keys)``.

    Philox is counter-based: different keys give independent streams. NumPy guarantees its
    bit stream across releases, but what a ``Generator`` draws from it only within one.

    Arguments
    ---------
    *keys : int or str
        As for ``derive_seed``.

    Returns
    -------
    numpy.random.Generator

    Example
    -------
    >>> a, b = generator(1234, "mask", 0), generator(1234, "mask", 0)
    >>> a.random() == b.random()
    True
    """
    return np.random.Generator(np.random.Philox(key=derive_seed(*keys)))


class RandomState:
    """The state of all random generators that a forward pass may draw from: to seed, keep
    and restore. They are Python's, NumPy's, and PyTorch's of the CPU and of one device.

    Arguments
    ---------
    device : torch.device or str
        Device of the model.

    Example
    -------
    >>> state = RandomState("cpu")
    >>> state.seed(7)
    >>> state.keep()
    >>> drawn = torch.rand(3)
    >>> state.restore()
    >>> torch.equal(torch.rand(3), drawn)
    True
    """

    def __init__(self, device):
        on_cpu = torch.device(device).type == "cpu"
        self.device = None if on_cpu else torch.get_device_module(device)

    def seed(self, seed):
        """Seed all generators."""
        random.seed(seed)
        np.random.seed(seed % 2**32)  # the largest that it takes
        torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds all devices
        if self.device is not None:
            self.device.manual_seed(seed)

    def keep(self):
        """Keep the current state for :meth:`restore`."""
        self.kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.on_device = None if self.device is None else self.device.get_rng_state()

    def restore(self):
        """Return to the state that was kept."""
        random.setstate(self.kept[0])
        np.random.set_state(self.kept[1])
        torch.set_rng_state(self.kept[2])
        if self.device is not None:
            self.device.set_rng_state(self.on_device)


@contextmanager
def seeded(*keys):
    """In this block, all random generators of the CPU start from ``derive_seed(*keys)``;
    afterwards they are in the state that they had before.

    Example
    -------
    >>> with seeded(1234, "mask", 7):
    ...     drawn = torch.rand(3)
    >>> with seeded(1234, "mask", 7):
    ...     torch.equal(torch.rand(3), drawn)
    True
    """
    state = RandomState("cpu")
    state.keep()
    state.seed(derive_seed(*keys))
    try:
        yield
    finally:
        state.restore()
