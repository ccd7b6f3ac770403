"""What an objective draws at random for a batch, once for all passes of a local solve."""

from functools import cached_property

import speechbrain as sb
import torch
import torch.nn.functional as F

from ..brain import HeteroBrain
from ..domain_batch import drawn
from ..models.layers import is_recomputed
from ..training.gradients import gradients
from ..training.graphs import PassGraphs, round_up
from ..training.rng import derive_seed


class PreparedOnce(HeteroBrain):
    """A HeteroBrain that prepares each batch once and shares it among the K + 1 passes.

    Subclasses define :meth:`prepare`, :meth:`predict` and :meth:`make_drawer`. The random
    numbers of a batch depend on (seed, iteration, utterances), and on the device where
    they are drawn there. Reads from ``hparams``:

    ``cuda_graphs`` : bool
        On a GPU, replay passes as CUDA graphs (False): several times as fast where the
        host is slower than the GPU. Batches are padded to a few shapes, by an eighth at
        most. Validations, and local steps in them, run without. Not with a recomputed
        encoder, nor with the exact hypergradient: a ValueError says so.
    """

    no_graphs = None  # in subclasses: why their passes cannot be CUDA graphs
    _of, _prepared = (None, None), None  # the last (batch, iteration), and its result

    def prepared(self, batch, stage):
        """What :meth:`prepare` returns for this batch and iteration."""
        iteration = self.iteration if stage == sb.Stage.TRAIN else -1
        if self._of[0] is not batch or self._of[1] != iteration:
            with torch.no_grad():
                self._prepared = self.prepare(batch, iteration)
            self._of = batch, iteration
        return self._prepared

    @cached_property
    def graphs(self):
        """Passes as CUDA graphs; None if they are not wanted, or not on a GPU."""
        if not self.cuda_graphs or self.device_type != "cuda":
            return None
        return PassGraphs(lambda: self.local_solver.params, self.run_pass)

    def graph_obstacle(self):
        """See the base class; a subclass may say why in ``no_graphs``."""
        if self.no_graphs:
            return self.no_graphs
        if getattr(self.hparams, "hypergradient", None) == "exact":
            return (
                "hypergradient: exact differentiates through passes, of which graphs "
                "have gradients only; set it to first_order, or cuda_graphs to False"
            )
        if any(map(is_recomputed, self.modules.modules())):
            return (
                "a recomputed encoder makes the host wait, which no CUDA graph can; set "
                "recomputed to none, or cuda_graphs to False"
            )
        return None

    def run_pass(self, *inputs):
        """A pass on the tensors of :meth:`prepare`: outputs, loss and gradients."""
        with self.training_ctx:
            outputs = self.predict(*inputs)
            loss = self.compute_objectives(outputs, None, sb.Stage.TRAIN)
        return outputs, loss, gradients(loss, self.local_solver.params, self.scaler)

    def backward_pass(self, domain_batch, k, divisor):
        """As the base class's, by a graph if there are graphs."""
        if self.graphs is None:
            return super().backward_pass(domain_batch, k, divisor)
        inputs = self.prepared(self.batch_of(domain_batch, k), sb.Stage.TRAIN)
        self.random_state.restore()
        outputs, loss, grads = self.graphs(*inputs)
        if k == self.local_steps:  # kept after the next pass: copied
            present = [grad for grad in grads if grad is not None]
            copies = iter(torch._foreach_div(present, divisor))
            grads = [None if grad is None else next(copies) for grad in grads]
        return outputs, loss, grads

    def compute_forward(self, batch, stage):
        """Predictions for a batch, from :meth:`predict`."""
        return self.predict(*self.prepared(batch, stage))

    def predict(self, *inputs):
        """Predictions from what :meth:`prepare` returned; to be defined.

        It must not wait for the device, nor depend on anything else than tensors.
        """
        raise NotImplementedError

    def size_of(self, size):
        """A size of a batch's tensors: rounded up if there are graphs."""
        return size if self.graphs is None else round_up(size)

    def padded(self, x, lengths):
        """Features (batch, frames, features) and lengths (batch,), of a size for graphs.

        Utterances that are added have a single frame, of zeros.
        """
        if self.graphs is None:
            return x, lengths
        rows, frames = (self.size_of(size) for size in x.shape[:2])
        x = F.pad(x, (0, 0, 0, frames - x.shape[1], 0, rows - len(x)))
        return x, F.pad(lengths, (0, rows - len(lengths)), value=1)

    def prepare(self, batch, iteration):
        """Features of a batch, and what is drawn for it; to be defined.

        Arguments
        ---------
        batch : PaddedBatch
            With ``id`` and ``sig``; on the host when it comes from a loader.
        iteration : int
            -1 in a validation.
        """
        raise NotImplementedError

    @classmethod
    def make_drawer(cls, modules, hparams):
        """A :class:`~hetero_brain.objectives.drawing.Drawer` for some modules and hparams
        of a Brain; to be defined."""
        raise NotImplementedError

    @classmethod
    def loader_drawer(cls, modules, hparams):
        """That of :meth:`make_drawer`; None if it has a method of a module count frames,
        as workers would need the module then: the Brain draws itself."""
        drawer = cls.make_drawer(modules, hparams)
        counts = getattr(drawer.frames, "__self__", None)
        return None if isinstance(counts, torch.nn.Module) else drawer

    @property
    def drawer(self):
        """What draws for a batch on the host; see :meth:`make_drawer`."""
        return self.make_drawer(self.modules, vars(self.hparams))

    def drawn(self, batch, iteration):
        """What :attr:`drawer` draws, or loader workers have drawn; to be called before
        the batch moves to the device, since the host would have to wait for it
        afterwards."""
        return drawn(self.drawer, batch, iteration)

    def device_generator(self, batch, purpose, iteration):
        """A PyTorch generator on the device for a batch."""
        seed = derive_seed(self.hparams.seed, purpose, iteration, *batch.id)
        return torch.Generator(self.device).manual_seed(seed)


def widened_places(places, n_frames, wider):
    """Indices in a flattened (batch · n_frames), as indices in (batch · wider).

    Example
    -------
    >>> widened_places(torch.tensor([0, 4, 5, 9]), 5, 8)
    tensor([ 0,  4,  8, 12])
    """
    if wider == n_frames:
        return places
    return places + places // n_frames * (wider - n_frames)
