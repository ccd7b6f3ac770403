"""The states of the local optimizer, one per unit, and their files in a checkpoint."""

import json
from collections import defaultdict

import torch
from torch.utils._pytree import tree_map_only

from .files import UNFINISHED
from .parallel import gathered, rank_and_size
from .rng import derive_seed

INDEX = "local_solver.json"  # unit → the name of its file in the checkpoint
FORMER = "local_solver.ckpt"  # until November 2026 it held the states of all units


class LocalStates(dict):
    """Unit → state of the local optimizer, of the units that this rank has solved.

    Those of all other units stay in the checkpoint that the run goes on from, until a
    solve on this rank or on another asks for them.
    """

    def __init__(self):
        super().__init__()
        self.files = {}  # unit → its file in a checkpoint, unless this rank has solved it

    def of(self, unit, optimizer):
        """The state of a unit, which its solves change in place.

        Arguments
        ---------
        unit : str
            A domain, or a replica of it.
        optimizer : torch.optim.Optimizer
            The local optimizer.
        """
        if unit not in self:
            if unit in self.files:
                state = _read(self.files.pop(unit))[unit]
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": state, "param_groups": groups})
                self[unit] = optimizer.state
            else:
                self[unit] = defaultdict(dict)
        return self[unit]

    def save(self, folder, optimizer):
        """Write the states of all units to a checkpoint, each to a file of its own.

        Every rank must call it, and writes what it has; it returns when all have written.
        What no rank has solved since the run was resumed is copied.

        Arguments
        ---------
        folder : Path
            The checkpoint.
        optimizer : torch.optim.Optimizer
            The local optimizer.
        """
        rank, size = rank_and_size()
        writers = {}
        for other, units in reversed([*enumerate(gathered([*self]))]):
            writers |= dict.fromkeys(units, other)
        waiting = [unit for unit in self.files if unit not in writers]
        writers |= {unit: i % size for i, unit in enumerate(waiting)}
        names = {u: f"local_solver.{derive_seed(u):016x}.ckpt" for u in sorted(writers)}
        own = None
        try:
            for unit in (unit for unit, writer in writers.items() if writer == rank):
                state = self._packed(unit, optimizer)
                torch.save({unit: state}, folder / names[unit])
            if rank == 0:
                (folder / INDEX).write_text(json.dumps(names), encoding="utf-8")
        except Exception as error:  # such as a full disk: all ranks have to know
            own = error
        for error in filter(None, gathered(own)):
            raise error
        # Earlier checkpoints may be deleted from now on.
        self.files = {unit: folder / names[unit] for unit in waiting}

    def load(self, folder):
        """Go on from the states in a checkpoint, on any number of ranks.

        Arguments
        ---------
        folder : Path
            The checkpoint.

        Returns
        -------
        bool
            Whether it has any; if not, all start empty.
        """
        self.clear()
        self.files = {}
        if (folder / INDEX).exists():
            names = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            self.files = {unit: folder / name for unit, name in names.items()}
        elif (folder / FORMER).exists():
            self.files = dict.fromkeys(_read(folder / FORMER), folder / FORMER)
        else:
            return False
        return True

    def _packed(self, unit, optimizer):
        """The state of a unit in host memory, by the numbers of parameters."""
        if unit in self.files:
            return _read(self.files[unit])[unit]
        optimizer.state = self[unit]
        state = optimizer.state_dict()["state"]
        return tree_map_only(torch.Tensor, torch.Tensor.cpu, state)


def _read(path):
    """The states in a file, whose checkpoint rank 0 may have given its final name."""
    options = {"map_location": "cpu", "weights_only": True}
    try:
        return torch.load(path, **options)
    except FileNotFoundError:
        final = path.parent.name.removeprefix(UNFINISHED)
        return torch.load(path.parent.with_name(final) / path.name, **options)
