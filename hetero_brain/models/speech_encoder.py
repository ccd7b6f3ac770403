"""A trained encoder as a module that takes waveforms."""

from pathlib import Path

import torch
import torchaudio
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from ..errors import InputError
from .features import own_samples
from .model_folder import DESCRIPTION, is_path, open_model
from .run_folder import RUN_MODEL, settled


@settled
def load_encoder(folder, sample_rate=None, freeze=False):
    """The encoder of a model folder, or of a phase, as a module that takes waveforms.

    In the YAML of a SpeechBrain recipe:
    ``encoder: !apply:hetero_brain.load_encoder {folder: results/1/PTLOC.1/model}``.
    No code of the folder is run; see ``model_folder.py``.

    Arguments
    ---------
    folder : str or Path
        A model folder, or the folder of a phase or of a fine-tuning run; or a public
        checkpoint, as a name on the Hugging Face Hub or a local folder in its layout.
    sample_rate : int
        Of the waveforms that the module will be given, in Hz; they are resampled if it is
        not the model's. Default: the model's.
    freeze : bool
        The encoder stays as it is: no gradients, no dropout, whatever mode is set.

    Returns
    -------
    SpeechEncoder
        On the CPU, in training mode unless frozen.

    Raises
    ------
    InputError
        See :func:`~hetero_brain.models.model_folder.open_model`; or it may be a public
        checkpoint, which needs transformers.
    """
    if is_public(folder):
        try:
            from .public import PublicEncoder
            from .public_features import make_public_features
            from .public_source import published
        except ImportError as error:
            raise InputError(f"{folder}: not a folder of ours. {error}") from error
        rate = published(folder).extractor.sampling_rate
        features, encoder = make_public_features(folder, rate), PublicEncoder(folder)
        given = {"sample_rate": rate, "input_rate": sample_rate}
        return SpeechEncoder(features, encoder, **given, freeze=freeze)
    model = open_model(folder)
    modules = model.build("features", "encoder")
    return SpeechEncoder(**modules, **rates(model, sample_rate), freeze=freeze)


def is_public(folder):
    """Whether a path is a name on the Hugging Face Hub, ``owner/name``, and no folder, or
    a folder in the layout of its models."""
    path = Path(folder)
    if path.is_dir():
        ours = any((path / name).exists() for name in (DESCRIPTION, RUN_MODEL))
        return (path / "config.json").exists() and not ours
    is_name = len(path.parts) == 2 and not is_path(folder)
    return is_name and not path.parent.exists()


def rates(model, sample_rate):
    """The arguments of :class:`SpeechEncoder` for waveforms at a rate, or None."""
    return {"sample_rate": model.sample_rate, "input_rate": sample_rate}


class SpeechEncoder(nn.Module):
    """Features and encoder: waveforms to encodings of all layers.

    Arguments
    ---------
    features, encoder : torch.nn.Module
        As in ``features.py`` and ``conformer.py``.
    sample_rate : int
        Of the features, in Hz.
    input_rate : int
        Of the waveforms, in Hz. Default: ``sample_rate``.
    freeze : bool
        As for :func:`load_encoder`.

    Attributes
    ----------
    sample_rate : int
        Of the waveforms that it takes, in Hz.
    output_size : int
        Dimension of the encodings.
    """

    def __init__(self, features, encoder, sample_rate, input_rate=None, freeze=False):
        super().__init__()
        self.features, self.encoder = features, encoder
        self.rates = (input_rate or sample_rate, sample_rate)
        self.sample_rate, self.output_size = self.rates[0], encoder.d_model
        self.frozen = freeze
        if freeze:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode=True):
        """As PyTorch's; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, wavs, wav_lens=None):
        """Encode.

        Arguments
        ---------
        wavs : torch.Tensor
            (batch, samples).
        wav_lens : torch.Tensor
            (batch,), relative to the longest. Default: all are as long.

        Returns
        -------
        encoded : torch.Tensor
            (batch, frames, ``output_size``). What is after the end of an utterance has no
            meaning.
        lengths : torch.Tensor
            (batch,) in frames.
        layers : sequence of torch.Tensor
            Input of the first block and output of each block, shaped as ``encoded``.
        """
        if wav_lens is None:
            wav_lens = wavs.new_ones(len(wavs))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x, lengths = self.features(*self.resampled(wavs, wav_lens))
            encoded, layers = self.encoder(x, lengths)
        return encoded, lengths, layers

    def resampled(self, wavs, wav_lens):
        """Waveforms at the rate of the features, zero after the end, and lengths."""
        before, after = self.rates
        samples, inside = own_samples(wavs, wav_lens)
        wavs = wavs * inside
        if before != after:
            wavs = torchaudio.functional.resample(wavs, before, after)
            samples = -(-samples * after // before)  # as many as resample makes
            wavs = wavs * length_to_mask(samples, wavs.shape[1], wavs.dtype)
            wav_lens = samples / wavs.shape[1]
        return wavs, wav_lens


class Embeddings(SpeechEncoder):
    """What ``speechbrain.inference.encoders.WaveformEncoder`` expects of its encoder."""

    def forward(self, wavs, wav_lens=None):
        """As :class:`SpeechEncoder`, with the results by name.

        Returns
        -------
        dict
            ``embeddings`` (encoded), ``embedding_lens`` (relative lengths) and
            ``layers``.
        """
        encoded, lengths, layers = super().forward(wavs, wav_lens)
        relative = lengths / encoded.shape[1]
        return {"embeddings": encoded, "embedding_lens": relative, "layers": layers}
