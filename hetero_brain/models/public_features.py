"""What public checkpoints take: normalised waveforms, or w2v-BERT's log-mels."""

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from ..errors import InputError
from .features import own_samples
from .frame_count import FrameCount
from .public_source import published
from .recorded import Call

# In place of a sample that is exactly zero, so that zeros are what is after the end.
TINY = 1e-20
# Of w2v-BERT's log-mels, in samples; Kaldi's 25 ms, 10 ms and smallest power.
FRAME, HOP, N_FFT, FLOOR = 400, 160, 512, 1.192092955078125e-07


def make_public_features(source, sample_rate=16000):
    """The features that a public checkpoint takes.

    Arguments
    ---------
    source : str, Path or dict
        As for :func:`~hetero_brain.models.public_source.published`.
    sample_rate : int
        Of the waveforms, in Hz.

    Returns
    -------
    NormalizedWaveforms or StackedLogMels

    Raises
    ------
    InputError
        There is no such checkpoint; or it takes another sampling rate.
    """
    checkpoint = published(source)
    extractor, config = checkpoint.extractor, checkpoint.config
    if sample_rate != extractor.sampling_rate:
        raise InputError(
            f"sample_rate: {sample_rate}; {source} takes {extractor.sampling_rate} Hz. "
            "Audio of other rates is resampled as it is read"
        )
    if checkpoint.is_w2v_bert:
        filters, window = (
            torch.as_tensor(values, dtype=torch.float64)
            for values in (extractor.mel_filters, extractor.window)
        )
        features = StackedLogMels(filters, window, extractor.stride)
    else:
        convolutions = list(zip(config.conv_kernel, config.conv_stride))
        features = NormalizedWaveforms(convolutions, extractor.do_normalize)
    arguments = {"source": checkpoint.settings(), "sample_rate": sample_rate}
    features.made_by = Call("apply", f"{__name__}.make_public_features", arguments)
    return features


class NormalizedWaveforms(nn.Module):
    """Waveforms as wav2vec 2.0, HuBERT, WavLM and data2vec take them.

    Arguments
    ---------
    convolutions : list of tuple
        (kernel, stride) of each convolution of the encoder's front end.
    do_normalize : bool
        Whether an utterance is brought to mean 0 and variance 1 over its own samples, as
        the checkpoint's ``preprocessor_config.json`` says.

    Example
    -------
    >>> features = NormalizedWaveforms([(10, 5), (3, 2)], do_normalize=True)
    >>> x, lengths = features(torch.rand(2, 400), torch.tensor([1.0, 0.5]))
    >>> x.shape, lengths.tolist()
    (torch.Size([2, 400]), [39, 19])
    """

    def __init__(self, convolutions, do_normalize):
        super().__init__()
        self.do_normalize = do_normalize
        self.frames = FrameCount(tuple(map(tuple, convolutions)))
        self.frame_samples = self.frames.step
        self.shortest = 1  # utterance that fills a frame, in samples
        for kernel, stride in reversed(convolutions):
            self.shortest = (self.shortest - 1) * stride + kernel

    @torch.no_grad()
    def forward(self, wavs, wav_lens):
        """Normalise.

        Arguments
        ---------
        wavs : torch.Tensor
            (batch, samples).
        wav_lens : torch.Tensor
            (batch,), relative to the longest.

        Returns
        -------
        x : torch.Tensor
            (batch, samples), zeros after the end of an utterance, and only there.
        lengths : torch.Tensor
            (batch,) in frames of the encoder, at least 1.
        """
        samples, inside = own_samples(wavs, wav_lens)
        wavs = wavs * inside
        if self.do_normalize:
            count = samples.unsqueeze(1)
            wavs = (wavs - wavs.sum(1, keepdim=True) / count) * inside
            variance = wavs.square().sum(1, keepdim=True) / count
            wavs = wavs / (variance + 1e-7).sqrt()
        x = wavs.masked_fill((wavs == 0) & inside, TINY)
        x = F.pad(x, (0, max(0, self.shortest - x.shape[1])))
        return x, self.frames(samples)


class StackedLogMels(nn.Module):
    """Log-mels as w2v-BERT 2.0 takes them: those of ``SeamlessM4TFeatureExtractor``.

    Kaldi's, of 25 ms every 10 ms, each mel brought to mean 0 and variance 1 over an
    utterance's own frames; ``stack`` frames are one. They are computed on the device of
    the waveforms, in fp64 as there, which neither autocast nor TF32 rounds.

    Arguments
    ---------
    filters : torch.Tensor
        (257, n_mels).
    window : torch.Tensor
        (400,).
    stack : int
        Adjacent frames in one stacked frame.
    """

    def __init__(self, filters, window, stack):
        super().__init__()
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", window, persistent=False)
        self.stack = stack
        self.frames = FrameCount(((FRAME, HOP), (stack, stack)))
        self.frame_samples = self.frames.step

    @torch.no_grad()
    def forward(self, wavs, wav_lens):
        """Compute features, of the same arguments as :class:`NormalizedWaveforms`.

        Returns
        -------
        x : torch.Tensor
            (batch, stacked frames, n_mels · stack), zeros after the end.
        lengths : torch.Tensor
            (batch,) in stacked frames, at least 1.
        """
        samples, inside = own_samples(wavs, wav_lens)
        wavs = wavs.double() * inside * 2**15  # 16-bit integers, as Kaldi reads them
        wavs = F.pad(wavs, (0, max(0, FRAME - wavs.shape[1])))
        frames = wavs.unfold(1, FRAME, HOP)
        frames = frames - frames.mean(2, keepdim=True)
        before = F.pad(frames[..., :-1], (1, 0))  # the window is 0 at the first sample
        spectrum = torch.fft.rfft((frames - 0.97 * before) * self.window, N_FFT)
        power = spectrum.real.square() + spectrum.imag.square()
        x = (power @ self.filters).clamp(min=FLOOR).log()
        own = ((samples - FRAME) // HOP + 1).clamp(min=1)
        inside = length_to_mask(own, x.shape[1], torch.bool).unsqueeze(2)
        own = own.view(-1, 1, 1)
        x = (x - (x * inside).sum(1, keepdim=True) / own) * inside
        variance = x.square().sum(1, keepdim=True) / (own - 1).clamp(min=1)
        x = (x / (variance + 1e-7).sqrt()).float()
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stack))
        return x.unflatten(1, (-1, self.stack)).flatten(2), self.frames(samples)
