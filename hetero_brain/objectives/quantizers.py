"""Frozen quantizers: what is labelled → the labels of masked prediction."""

import io
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from speechbrain.utils.distributed import run_on_main
from torch import nn

from ..errors import InputError
from ..models.precision import full_fp32
from ..training.files import write_atomically
from ..training.rng import generator
from .k_means import lloyd_means, mini_batch_means


class RandomProjectionQuantizer(nn.Module):
    """Nearest codes to a random projection (BEST-RQ; Chiu et al., arXiv:2202.01855).

    Vectors and codes are normalised, so that the nearest code is the one of largest
    product: two matrix products, where SpeechBrain's quantizer of this name builds a
    (batch, codebook, time, dim) tensor of differences and takes twelve times as long
    (8192 codes, one CPU thread).

    Arguments
    ---------
    input_size : int
        Dimension of the stacked features.
    codebook_dim : int
        Dimension of a code.
    codebook_size : int
        Codes in a codebook (paper: 256).
    n_codebooks : int
        Codebooks, each with a projection of its own (paper: 1).
    seed : int
        Of projections and codes.

    Example
    -------
    >>> quantize = RandomProjectionQuantizer(240, codebook_size=256, n_codebooks=2)
    >>> quantize(torch.rand(3, 50, 240)).shape
    torch.Size([3, 50, 2])
    """

    def __init__(
        self, input_size, codebook_dim=16, codebook_size=256, n_codebooks=1, seed=0
    ):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        projection = torch.empty(n_codebooks, input_size, codebook_dim)
        for matrix in projection:
            nn.init.xavier_uniform_(matrix, generator=generator)
        codes = torch.randn(
            n_codebooks, codebook_size, codebook_dim, generator=generator
        )
        self.register_buffer("projection", projection)
        self.register_buffer("codes", F.normalize(codes, dim=-1))
        self.codebook_size, self.n_codebooks = codebook_size, n_codebooks

    @torch.no_grad()
    def forward(self, x):
        """Labels of features.

        Arguments
        ---------
        x : torch.Tensor
            (..., input_size).

        Returns
        -------
        torch.Tensor
            (..., n_codebooks) of int64, in [0, codebook_size).
        """
        # The length of a projected vector scales all its products alike: no need to
        # normalise it.
        with torch.autocast(x.device.type, enabled=False), full_fp32():
            projected = x.float().flatten(0, -2) @ self.projection
            labels = [  # in pieces, as the products are many
                torch.cat([(piece @ codes.T).argmax(-1) for piece in rows.split(512)])
                for rows, codes in zip(projected, self.codes)
            ]
        return torch.stack(labels, dim=1).unflatten(0, x.shape[:-1])


class KMeansQuantizer(nn.Module):
    """Nearest of k-means centroids after PCA (as HuBERT's labels).

    For a few hours of speech its labels teach more than a random codebook's. It has to
    be fitted once, before training; its state then travels in the checkpoints.

    Arguments
    ---------
    input_size : int
        Dimension of what is labelled.
    codebook_size : int
        Clusters.
    n_components : int
        Principal components (not whitened) that are clustered.
    seed : int
        Of the initial centroids.
    means : callable
        (frames, n_clusters, seed) → centroids, of float32 arrays; :func:`lloyd_means` by
        default.
    """

    n_codebooks = 1

    def __init__(
        self, input_size, codebook_size=512, n_components=64, seed=0, means=None
    ):
        super().__init__()
        self.codebook_size, self.seed = codebook_size, seed
        self.means = means or lloyd_means
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("components", torch.zeros(input_size, n_components))
        self.register_buffer("centroids", torch.zeros(codebook_size, n_components))

    def fit(self, x):
        """Fit components and centroids.

        Arguments
        ---------
        x : torch.Tensor
            (frames, input_size), a sample of the training features.

        Raises
        ------
        InputError
            Fewer frames than clusters.
        """
        if len(x) < self.codebook_size:
            raise InputError(
                f"k-means with codebook_size: {self.codebook_size} needs as many "
                f"frames, got {len(x)}; lower it or give more audio."
            )
        x = x.double().cpu()
        mean = x.mean(0)
        _, vectors = torch.linalg.eigh(torch.cov((x - mean).T))
        components = vectors.flip(1)[:, : self.components.shape[1]]
        reduced = ((x - mean) @ components).float().numpy()
        centroids = self.means(reduced, self.codebook_size, self.seed)
        self.mean.copy_(mean)
        self.components.copy_(components)
        self.centroids.copy_(torch.from_numpy(centroids))

    @torch.no_grad()
    def forward(self, x):
        """Labels of features: (..., input_size) → (..., 1) of int64."""
        with torch.autocast(x.device.type, enabled=False), full_fp32():
            reduced = (x.float() - self.mean) @ self.components
            # argmin |r − c|² = argmax r·c − |c|²/2: again one product.
            scores = reduced @ self.centroids.T - self.centroids.square().sum(1) / 2
        return scores.argmax(-1, keepdim=True)


def make_quantizer(labels, input_size, codebook_size, n_codebooks=1, seed=0):
    """The quantizer that gives a kind of labels.

    Arguments
    ---------
    labels : str
        ``random_projection`` or ``kmeans``; or ``teacher``, which is k-means without PCA.
    input_size : int
        Dimension of what is labelled.
    codebook_size, n_codebooks : int
        Codes in a codebook, and codebooks (k-means has one).
    seed : int
        Of the codebooks.

    Raises
    ------
    ValueError
        Unknown labels, or several codebooks with k-means.
    InputError
        The package that a teacher's labels need is missing.
    """
    if labels == "random_projection":
        return RandomProjectionQuantizer(
            input_size, codebook_size=codebook_size, n_codebooks=n_codebooks, seed=seed
        )
    if labels not in ("kmeans", "teacher") or n_codebooks != 1:
        raise ValueError(
            f"labels: {labels}, n_codebooks: {n_codebooks}; there are random_projection, "
            "and kmeans and teacher with one codebook"
        )
    if labels == "teacher":
        if find_spec("sklearn") is None:
            raise InputError(
                "labels: teacher needs scikit-learn; install the extra public: "
                "pip install 'hetero_brain[public]'"
            )
        means = mini_batch_means
        return KMeansQuantizer(input_size, codebook_size, input_size, seed, means)
    return KMeansQuantizer(input_size, codebook_size, 64, seed)


def fit_quantizer(
    quantizer,
    features,
    utterances,
    path,
    max_frames=100_000,
    balanced=False,
    device="cpu",
    anew=False,
):
    """Fit a quantizer that needs it on training audio, once a run.

    Arguments
    ---------
    quantizer : torch.nn.Module
        Left as it is if it has no ``fit``.
    features : torch.nn.Module
        (waveforms, relative lengths) → (what is labelled, lengths).
    utterances : Utterances
        Training audio; drawn at random until there are ``max_frames`` frames.
    path : str or Path
        The fitted state is kept here, and taken from here when it exists.
    max_frames : int
        Frames to fit on.
    balanced : bool
        As many frames of each domain, as far as it has them; otherwise domains have the
        shares that they have of the utterances.
    device : str
        Where the features are computed.
    anew : bool
        Whether to replace what is there: nothing has been trained with it.
    """
    path = Path(path)
    if not hasattr(quantizer, "fit"):
        return

    def fit():
        if path.exists() and not anew:
            return
        order = generator(utterances.seed, "fit").permutation(len(utterances))
        domain = utterances.manifest.domain if balanced else np.zeros(len(order))
        waiting = {d: order[domain[order] == d][::-1].tolist() for d in {*domain}}
        count, frames = Counter(), []
        features.to(device)
        while waiting and count.total() < max_frames:
            least = min(waiting, key=lambda d: (count[d], d))
            batch, _ = utterances.batch([waiting[least].pop()], step=0)
            if batch is not None:
                x, lengths = features(*batch.to(device).sig)
                frames.append(x[0, : lengths[0]].cpu())
                count[least] += len(frames[-1])
            if not waiting[least]:
                del waiting[least]
        quantizer.fit(torch.cat(frames))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(quantizer.state_dict(), state := io.BytesIO())
        write_atomically(path, state.getvalue())

    run_on_main(fit)
    quantizer.load_state_dict(torch.load(path, weights_only=True))
