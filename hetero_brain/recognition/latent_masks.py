"""Masks of latents in fine-tuning: SpecAugment for models that take waveforms.

Baevski et al., "wav2vec 2.0", NeurIPS 2020, section 4.3: spans of frames become the
embedding that stood for masked frames in pre-training.
"""

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask


def latent_masks(lengths, n_frames, mask_prob, mask_span):
    """Draw which frames of a batch are masked, from PyTorch's generator of the device.

    A span starts at any frame with probability p. Spans may overlap, and may start before
    the first frame, so that every frame is masked with probability 1 − (1 − p)^span.

    Arguments
    ---------
    lengths : torch.Tensor
        (batch,) in frames.
    n_frames : int
        Of the padded batch.
    mask_prob : float
        p, the probability that a span starts at a frame.
    mask_span : int
        Frames in a span.

    Returns
    -------
    torch.Tensor
        (batch, n_frames) of bool, False in the padding.

    Example
    -------
    >>> masks = latent_masks(torch.tensor([2, 4]), 4, mask_prob=1.0, mask_span=2)
    >>> masks.int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 1]]
    """
    shape = len(lengths), n_frames + mask_span - 1
    starts = (torch.rand(shape, device=lengths.device) < mask_prob).float()
    masked = F.max_pool1d(starts.unsqueeze(1), mask_span, stride=1).squeeze(1) > 0
    return masked & length_to_mask(lengths, n_frames, torch.bool)
