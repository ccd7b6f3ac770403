"""What an objective draws at random for a batch, once for all passes of a local solve."""

import speechbrain as sb
import torch

from ..brain import HeteroBrain
from ..training.rng import derive_seed, generator


class PreparedOnce(HeteroBrain):
    """A HeteroBrain that prepares each batch once and shares it among the K + 1 passes.

    Subclasses define :meth:`prepare`. Its random numbers depend on (seed, iteration,
    utterances), and on the device where they are drawn there.
    """

    _of, _prepared = (None, None), None  # the last (batch, iteration), and its result

    def prepared(self, batch, stage):
        """What :meth:`prepare` returns for this batch and iteration."""
        iteration = self.iteration if stage == sb.Stage.TRAIN else -1
        if self._of[0] is not batch or self._of[1] != iteration:
            with torch.no_grad():
                self._prepared = self.prepare(batch, iteration)
            self._of = batch, iteration
        return self._prepared

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

    def generators(self, batch, purpose, iteration):
        """A NumPy generator for each utterance of a batch."""
        seed = self.hparams.seed
        return [generator(seed, purpose, iteration, name) for name in batch.id]

    def device_generator(self, batch, purpose, iteration):
        """A PyTorch generator on the device for a batch."""
        seed = derive_seed(self.hparams.seed, purpose, iteration, *batch.id)
        return torch.Generator(self.device).manual_seed(seed)

    def frames(self, batch):
        """Encoder frames of each utterance, as a list; to be called before the batch
        moves to the device, since the host would have to wait for it afterwards."""
        wavs, lengths = batch.sig
        samples = (lengths * wavs.shape[1]).round().long()
        return self.modules.features.frames(samples).tolist()
