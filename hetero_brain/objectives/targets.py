"""What public models predict the labels of: log-mels, or a layer of a frozen teacher."""

import torch
from torch import nn

from ..models.features import StackedFbank

STACK = 2  # feature frames of 10 ms in an encoder frame of all public models


def make_targets(labels, source, layer=9, sample_rate=16000):
    """What the quantizer of the same ``labels`` takes, made from waveforms.

    Arguments
    ---------
    labels : str
        ``teacher``: a layer of the public model that training starts from (HuBERT's
        second iteration). ``kmeans`` or ``random_projection``: log-mels, as HuBERT's
        first iteration and BEST-RQ have them.
    source : str or Path
        Hub name or local folder of the teacher.
    layer : int
        Of the teacher: 1 is its first block (HuBERT: 6 of its first model, 9 of its
        second).
    sample_rate : int
        Hz.

    Raises
    ------
    ValueError
        Other labels; or the teacher has no such layer.
    """
    if labels == "teacher":
        from ..models.public import PublicEncoder
        from ..models.public_features import make_public_features

        features = make_public_features(source, sample_rate)
        return TeacherLayer(features, PublicEncoder(source), layer)
    if labels not in ("kmeans", "random_projection"):
        raise ValueError(
            f"labels: {labels}; choose one of teacher, kmeans, random_projection"
        )
    return StackedFbank(sample_rate, stack=STACK)


class TeacherLayer(nn.Module):
    """A layer of a frozen encoder, which moves with this module to its device.

    To the rest of the program, it has no parameters and no state: nothing copies, saves
    or trains it. It always is in evaluation mode.

    Arguments
    ---------
    features, encoder : torch.nn.Module
        Waveforms → inputs → (encoded, outputs of the front end and of each block). Later
        blocks than ``layer`` are deleted.
    layer : int
        1 is the first block.

    Raises
    ------
    ValueError
        There is no such layer.
    """

    def __init__(self, features, encoder, layer):
        super().__init__()
        blocks = encoder.blocks.layers
        if not 1 <= layer <= len(blocks):
            raise ValueError(
                f"teacher_layer: {layer}; the teacher has 1 to {len(blocks)}"
            )
        del blocks[layer:]
        self.teacher = features.eval(), encoder.requires_grad_(False).eval()
        self.output_size = encoder.d_model

    def _apply(self, fn, recurse=True):
        for module in self.teacher:
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def forward(self, wavs, wav_lens):
        """(batch, samples) and relative lengths → (batch, frames, output_size) and
        (batch,) lengths in frames."""
        features, encoder = self.teacher
        x, lengths = features(wavs, wav_lens)
        _, hidden = encoder(x, lengths)
        return hidden[-1], lengths
