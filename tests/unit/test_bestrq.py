"""BEST-RQ: masks, labels, loss and figures against plain references; and it learns."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import speechbrain as sb
import torch
from scipy.cluster.vq import kmeans2
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.nnet.quantisers import (
    RandomProjectionQuantizer as SpeechBrainQuantizer,
)
from torch import nn

from hetero_brain import DomainBatch
from hetero_brain.data.datasets import GlobalBatches, Utterances
from hetero_brain.data.loaders import make_plan
from hetero_brain.models.conformer import Conformer, make_head
from hetero_brain.models.features import StackedFbank
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.k_means import plus_plus
from hetero_brain.objectives.masking import mask_batch
from hetero_brain.objectives.quantizers import (
    KMeansQuantizer,
    RandomProjectionQuantizer,
    fit_quantizer,
)

TRAIN, VALID = sb.Stage.TRAIN, sb.Stage.VALID
RECIPE = Path(__file__).parents[2] / "recipes/VoicePrompts"
DIM = 6


class Frames(nn.Module):
    """Every ``DIM`` samples are a frame."""

    def forward(self, wavs, wav_lens):
        x = wavs.unflatten(1, (-1, DIM)).clone()
        return x, (wav_lens * x.shape[1]).round().long()

    def frames(self, samples):
        return samples // DIM


class PerFrame(nn.Module):
    """An encoder that sees single frames."""

    d_model = 8

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(DIM, self.d_model)

    def forward(self, x, lengths):
        return self.linear(x), [x]


class Constant(nn.Module):
    """Labels that are given."""

    def __init__(self, *labels):
        super().__init__()
        self.labels = torch.tensor(labels)

    def forward(self, x):
        return self.labels[torch.arange(len(x)) % len(self.labels)]


def make_brain(local_steps=0, size=16, codebooks=1, lr=1e-2, **changed):
    torch.manual_seed(0)
    modules = {
        "features": Frames(),
        "encoder": PerFrame(),
        "quantizer": RandomProjectionQuantizer(DIM, 4, size, codebooks),
    }
    modules |= {k: changed.pop(k) for k in list(changed) if k in modules}
    modules["output"] = make_head(modules["encoder"], size * codebooks)
    brain = BestRQBrain(
        modules,
        opt_class=partial(torch.optim.AdamW, lr=lr, fused=True),
        hparams={
            "seed": 1,
            "mask_prob": 0.2,
            "mask_span": 3,
            "noise_std": 0.316,
            "local_steps": local_steps,
            "local_optimizer": partial(torch.optim.SGD, lr=0.03),
            **changed,
        },
        run_opts={"device": "cpu"},
    )
    brain.init_optimizers()
    return brain


def utterance(key, n_frames):
    torch.manual_seed(sum(key.encode()))
    return {"id": key, "sig": torch.randn(n_frames * DIM)}


def batch_of(**frames):
    return PaddedBatch([utterance(key, n) for key, n in frames.items()])


def masked_inputs(brain, batch, stage=TRAIN):
    """As the brain's, with the mask as (batch, frames) of bool."""
    noisy, lengths, places, labels = brain.prepared(batch, stage)
    masked = torch.zeros(noisy.shape[:2], dtype=torch.bool)
    masked.view(-1)[places] = True
    assert masked.sum() == len(places)  # none twice
    return noisy, lengths, masked, labels


def inputs(brain, iteration=0, stage=TRAIN, **frames):
    """Key → (mask, noise) of every utterance of a batch."""
    brain.optimizer_step = iteration
    noisy, lengths, masked, _ = masked_inputs(brain, batch_of(**frames), stage)
    rows = zip(frames, noisy, lengths, masked)
    return {key: (mask[:n].tolist(), x[mask].tolist()) for key, x, n, mask in rows}


# ---------------------------------------------------------------------------- masks


@pytest.mark.parametrize("prob, span", [(0.12, 5), (0.02, 20)])
def test_share_of_masked_frames_at_any_length(prob, span):
    lengths, draws = [3, 10, 400], 1500
    masks = np.array(
        [
            mask_batch(
                lengths,
                400,
                prob,
                span,
                [np.random.default_rng((s, i)) for i in range(3)],
            )
            for s in range(draws)
        ]
    )
    expected = 1 - (1 - prob) ** span
    for i, length in enumerate(lengths):
        assert not masks[:, i, length:].any()
        assert masks[:, i, :length].mean() == pytest.approx(expected, abs=0.04)
    # At the first and the last frame of an utterance as anywhere else.
    for frame in (0, 1, 200, 398, 399):
        assert masks[:, 2, frame].mean() == pytest.approx(expected, abs=0.06)
    assert masks[:, 1, 9].mean() == pytest.approx(expected, abs=0.06)


def test_masks_are_spans():
    mask = mask_batch([2000], 2000, 0.02, 7, [np.random.default_rng(0)])[0]
    runs = "".join("x" if masked else " " for masked in mask).split()
    assert len(runs) > 10
    assert min(map(len, runs[1:-1])) == 7  # those at the ends may be cut


def test_padding_is_neither_masked_nor_a_target():
    brain = make_brain(mask_prob=0.9)
    noisy, lengths, masked, labels = masked_inputs(brain, batch_of(a=30, b=4))
    assert lengths.tolist() == [30, 4]
    assert not masked[1, 4:].any() and not noisy[1, 4:].any()
    assert masked[1, :4].any() and masked[0, 4:].any()
    assert len(labels) == masked.sum()


def test_masked_frames_are_noise_and_the_others_unharmed():
    brain = make_brain(noise_std=0.5)
    batch = batch_of(a=3000)
    x = batch.sig.data.view(1, -1, DIM).clone()
    noisy, _, masked, labels = masked_inputs(brain, batch)
    assert torch.equal(noisy[~masked], x[~masked])
    drawn = noisy[masked]
    assert drawn.std() == pytest.approx(0.5, abs=0.02) and abs(drawn.mean()) < 0.02
    assert torch.equal(labels, brain.modules.quantizer(x[masked]))  # of what was there
    assert torch.equal(batch.sig.data.view(1, -1, DIM), x)


def test_masks_belong_to_seed_iteration_and_utterance():
    one = inputs(make_brain(), 7, a=40, b=40)
    other = inputs(make_brain(), 7, c=60, b=40, a=40)
    assert one["a"][0] == other["a"][0] and one["b"][0] == other["b"][0]
    assert inputs(make_brain(), 7, a=40, b=40) == one  # with the noise
    assert one["a"][1] and one["a"] != one["b"]
    assert inputs(make_brain(), 7, a=40)["a"][0] == one["a"][0]
    assert inputs(make_brain(), 8, a=40)["a"] != one["a"]
    assert inputs(make_brain(seed=2), 7, a=40)["a"] != one["a"]
    assert inputs(make_brain(), 3, VALID, a=40) == inputs(make_brain(), 4, VALID, a=40)


def test_the_same_batch_object_in_another_iteration_gets_another_mask():
    brain, batch = make_brain(), batch_of(a=40)
    masks = []
    for brain.optimizer_step, stage in ((0, TRAIN), (1, TRAIN), (1, VALID), (0, TRAIN)):
        masks.append(brain.prepared(batch, stage)[2])
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
    assert torch.equal(masks[0], masks[3])


def test_both_levels_have_the_same_masks():
    brain = make_brain(local_steps=2)
    seen, features = [], brain.modules.features
    brain.modules.encoder.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    calls = []
    features.register_forward_hook(lambda *_: calls.append(1))
    brain.fit_batch([DomainBatch("en", (batch_of(a=40, b=25),))])
    assert len(seen) == 3 and len(calls) == 1
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


# ----------------------------------------------------------------------- quantizers


@pytest.mark.parametrize("codebooks", [1, 3])
def test_random_projection_is_the_nearest_code(codebooks):
    quantize = RandomProjectionQuantizer(20, 5, 32, codebooks, seed=3)
    x = torch.randn(7, 30, 20, generator=torch.Generator().manual_seed(0))
    labels = quantize(x)
    assert labels.shape == (7, 30, codebooks) and labels.dtype == torch.int64
    for n in range(codebooks):
        projected = (x.double() @ quantize.projection[n].double()).numpy()
        projected /= np.linalg.norm(projected, axis=-1, keepdims=True)
        codes = quantize.codes[n].double().numpy()
        assert np.allclose(np.linalg.norm(codes, axis=1), 1)
        distance = np.linalg.norm(projected[..., None, :] - codes, axis=-1)
        assert (labels[..., n].numpy() == distance.argmin(-1)).all()
    if codebooks > 1:  # each has a projection and codes of its own
        assert not torch.equal(labels[..., 0], labels[..., 1])


def test_random_projection_is_speechbrains():
    torch.manual_seed(0)
    theirs, ours = SpeechBrainQuantizer(20, 5, 32), RandomProjectionQuantizer(20, 5, 32)
    ours.projection.copy_(theirs.P[None])
    ours.codes.copy_(theirs.CB[None])
    x = torch.randn(4, 50, 20)
    assert torch.equal(ours(x)[..., 0], theirs(x))


def test_random_projection_depends_on_its_seed_only():
    torch.manual_seed(0)
    a = RandomProjectionQuantizer(20, seed=1).state_dict()
    torch.manual_seed(1)
    b = RandomProjectionQuantizer(20, seed=1).state_dict()
    c = RandomProjectionQuantizer(20, seed=2).state_dict()
    for key in ("projection", "codes"):
        assert torch.equal(a[key], b[key]) and not torch.equal(a[key], c[key])


def blobs(n=600, dim=12, clusters=6):
    rng = np.random.default_rng(0)
    centres = 5 * rng.standard_normal((clusters, dim))
    which = rng.integers(clusters, size=n)
    x = 10 + centres[which] + 0.3 * rng.standard_normal((n, dim))
    return torch.from_numpy(x).float(), which


def test_kmeans_labels_are_the_nearest_centroid():
    x, which = blobs()
    quantize = KMeansQuantizer(12, codebook_size=6, n_components=4)
    quantize.fit(x)
    labels = quantize(x.view(30, 20, 12))
    assert labels.shape == (30, 20, 1)
    reduced = (x - x.mean(0)) @ quantize.components
    distance = torch.cdist(reduced.double(), quantize.centroids.double())
    assert torch.equal(labels.flatten(), distance.argmin(1))
    # and the clusters are those that were made
    pairs = set(zip(which.tolist(), labels.flatten().tolist()))
    assert len(pairs) == len(set(which)) == 6


def test_kmeans_components_are_the_principal_ones():
    x, _ = blobs()
    quantize = KMeansQuantizer(12, codebook_size=6, n_components=4)
    quantize.fit(x)
    _, _, vectors = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    overlap = (vectors[:4] @ quantize.components).abs()
    torch.testing.assert_close(overlap, torch.eye(4), atol=1e-3, rtol=0)


def test_kmeans_is_fitted_deterministically():
    x, _ = blobs()
    fits = []
    for seed in (0, 0, 1):
        np.random.seed(len(fits)), torch.manual_seed(len(fits))
        quantize = KMeansQuantizer(12, codebook_size=9, n_components=4, seed=seed)
        quantize.fit(x)
        fits.append(quantize.centroids)
    assert torch.equal(fits[0], fits[1]) and not torch.equal(fits[0], fits[2])


def test_kmeans_begins_as_that_of_scipy():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)).numpy()
    for data in (x, x.repeat(2, axis=0)):  # the nearest may be at no distance
        expected = kmeans2(data, 40, iter=3, minit="++", rng=np.random.default_rng(7))
        start = plus_plus(data, 40, np.random.default_rng(7))
        found = kmeans2(data, start, iter=3, minit="matrix")
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


def test_kmeans_needs_as_many_frames_as_clusters():
    with pytest.raises(ValueError, match="codebook_size: 50.* got 49"):
        KMeansQuantizer(12, codebook_size=50, n_components=4).fit(torch.randn(49, 12))


class Recordings:
    """Stands for Utterances: counts what is read."""

    seed, read = 5, ()

    def __len__(self):
        return 20

    def batch(self, rows, step):
        self.read = (*self.read, *rows)
        if rows[0] % 4 == 0:
            return None, ["unreadable"]
        return batch_of(**{f"u{rows[0]}": 10 + int(rows[0])}), []


def test_fit_quantizer_fits_once_and_keeps_the_file(tmp_path):
    path, recordings = tmp_path / "new" / "quantizer.ckpt", Recordings()
    first = KMeansQuantizer(DIM, codebook_size=8, n_components=3)
    fit_quantizer(first, Frames(), recordings, path)
    assert sorted(recordings.read) == list(range(20))  # all, as there are few
    assert first.centroids.abs().sum() > 0

    again, recordings = KMeansQuantizer(DIM, 8, 3, seed=9), Recordings()
    written = path.stat().st_mtime_ns
    fit_quantizer(again, Frames(), recordings, path)
    assert not recordings.read and path.stat().st_mtime_ns == written
    for key, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_fit_quantizer_reads_no_more_than_it_needs(tmp_path):
    recordings = Recordings()
    quantizer = KMeansQuantizer(DIM, codebook_size=8, n_components=3)
    fit_quantizer(quantizer, Frames(), recordings, tmp_path / "q.ckpt", max_frames=60)
    frames = [10 + row for row in recordings.read if row % 4]
    assert sum(frames) >= 60 > sum(frames[:-1])
    assert list(recordings.read) != list(range(len(recordings.read)))  # but at random


def test_fit_quantizer_leaves_a_random_projection_alone(tmp_path):
    recordings = Recordings()
    fit_quantizer(RandomProjectionQuantizer(DIM), Frames(), recordings, tmp_path / "q")
    assert not recordings.read and not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------- loss


def speech_brain(codebooks=2, size=32):
    features = StackedFbank(8000, n_mels=20, stack=4)
    torch.manual_seed(0)
    encoder = Conformer(nn.Linear(80, 16), 2, 16, nhead=2, d_ffn=32, kernel_size=5)
    quantizer = RandomProjectionQuantizer(80, 8, size, codebooks)
    brain = make_brain(
        size=size,
        codebooks=codebooks,
        features=features,
        encoder=encoder,
        quantizer=quantizer,
    )
    brain.modules.eval()
    return brain


def test_padding_does_not_change_what_an_utterance_contributes():
    brain = speech_brain()
    brain.hparams.noise_std = 0.0  # noise is drawn for a whole batch
    torch.manual_seed(0)
    short = {"id": "short", "sig": torch.randn(8123)}
    long = {"id": "long", "sig": torch.randn(20011) * 3}
    loss, hits, labels = brain.compute_forward(PaddedBatch([short]), TRAIN)
    other, _, other_labels = brain.compute_forward(PaddedBatch([long]), TRAIN)
    both, both_hits, both_labels = brain.compute_forward(
        PaddedBatch([short, long]), TRAIN
    )
    n = len(labels)
    assert 0 < n < len(both_labels)
    assert torch.equal(both_labels, torch.cat([labels, other_labels]))
    assert torch.equal(both_hits[:n], hits)
    apart = (n * loss + len(other_labels) * other) / len(both_labels)
    torch.testing.assert_close(both, apart, rtol=0, atol=1e-5)


def test_the_loss_is_that_of_masked_frames_only():
    brain = make_brain(size=16, codebooks=3)
    batch = batch_of(a=40, b=25)
    noisy, _, masked, _ = masked_inputs(brain, batch)
    loss, hits, labels = predictions = brain.compute_forward(batch, TRAIN)
    n = int(masked.sum())
    assert 0 < n < 65
    assert hits.shape == labels.shape == (n, 3)
    everywhere = brain.modules.output(brain.modules.encoder(noisy, None)[0])
    logits = everywhere[masked].view(n, 3, 16)
    assert torch.equal(hits, logits.argmax(-1) == labels)
    log_probs = logits.log_softmax(-1).gather(-1, labels[..., None])
    torch.testing.assert_close(loss, -log_probs.mean())
    assert brain.compute_objectives(predictions, batch, TRAIN) is loss


def test_a_batch_without_masked_frames_is_no_fault():
    brain = make_brain(mask_prob=0.0, local_steps=1)
    batch = batch_of(a=40, b=25)
    outputs = brain.compute_forward(batch, TRAIN)
    assert outputs[1].shape == (0, 1)
    loss = brain.compute_objectives(outputs, batch, TRAIN)
    assert loss.item() == 0
    loss.backward()
    for p in brain.modules.parameters():
        assert torch.equal(p.grad, torch.zeros_like(p))
    brain.zero_grad()
    assert brain.fit_batch([DomainBatch("en", (batch,))]) == 0
    entry = brain.interval_stats()
    assert entry["loss_at_phi/en"] == 0 and "dropped/en" not in entry
    assert all(math.isfinite(value) for value in entry.values())


def test_the_first_loss_is_about_chance():
    brain = speech_brain(size=64)
    batch = PaddedBatch([{"id": str(i), "sig": torch.randn(16000)} for i in range(4)])
    outputs = brain.compute_forward(batch, TRAIN)
    loss = brain.compute_objectives(outputs, batch, TRAIN)
    assert loss.item() == pytest.approx(math.log(64), abs=0.4)


# -------------------------------------------------------------------------- figures


def figures(*labels, local_steps=0, codebooks=1, **changed):
    """What is logged with these labels, for a model that always predicts 0."""
    changed |= {"lr": 0.0, "quantizer": Constant(*labels)}
    brain = make_brain(local_steps, 8, codebooks, **changed)
    with torch.no_grad():
        brain.modules.output.weight.zero_()
        brain.modules.output.bias.zero_()
        brain.modules.output.bias[::8] = 5.0
    brain.fit_batch([DomainBatch("en", (batch_of(a=400),))])
    return brain.interval_stats(), brain


@pytest.mark.parametrize("local_steps", [0, 1])
def test_accuracy_and_a_collapsed_codebook_show(local_steps):
    entry, brain = figures([0], local_steps=local_steps)
    assert entry["accuracy/en"] == 1 and entry["codebook_use/en"] == 1 / 8
    entry, _ = figures([3], local_steps=local_steps)
    assert entry["accuracy/en"] == 0 and entry["codebook_use/en"] == 1 / 8
    entry, _ = figures(*[[i] for i in range(8)], local_steps=local_steps)
    assert entry["accuracy/en"] == pytest.approx(1 / 8, abs=0.02)
    assert entry["codebook_use/en"] == 1
    assert brain.interval_stats() == {}  # cleared by the entry before


def test_accuracy_is_that_at_phi():
    far = partial(torch.optim.SGD, lr=100.0)
    entry, _ = figures([3], local_steps=1, local_optimizer=far)
    assert entry["loss_at_theta/en"] > 5 > entry["loss_at_phi/en"]
    assert entry["accuracy/en"] == 1


def test_codebook_use_counts_each_codebook_by_itself():
    entry, _ = figures([0, 1], [1, 0], codebooks=2)
    assert entry["codebook_use/en"] == 4 / 16
    assert entry["accuracy/en"] == 0.5


def test_a_code_that_occurred_once_is_in_use():
    entry, _ = figures([5], *[[0]] * 500)
    assert entry["codebook_use/en"] == 2 / 8


def test_codebook_use_is_of_the_domain_and_the_interval():
    brain = make_brain(size=8, quantizer=Constant([1]))
    brain.fit_batch([DomainBatch("en", (batch_of(a=50),))])
    brain.modules.quantizer.labels = torch.tensor([[2], [3]])
    brain.fit_batch([DomainBatch("fr", (batch_of(b=50),))])
    brain.fit_batch([DomainBatch("en", (batch_of(c=50),))])
    entry = brain.interval_stats()
    assert entry["codebook_use/en"] == 3 / 8 and entry["codebook_use/fr"] == 2 / 8
    brain.fit_batch([DomainBatch("en", (batch_of(d=50),))])
    entry = brain.interval_stats()
    assert entry["codebook_use/en"] == 2 / 8 and "codebook_use/fr" not in entry


# ------------------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def speech(sample, tmp_path_factory):
    """Global batches of the shipped sample, and the quantizer fitted on it."""
    train = sample("train", ["en", "es"])
    utterances = Utterances(train, 8000, max_utterance_seconds=4)
    plan = make_plan(train, seed=1, global_batch_seconds=12, max_utterance_seconds=4)
    quantizer = KMeansQuantizer(80, codebook_size=24, n_components=16)
    features = StackedFbank(8000, n_mels=20, stack=4)
    fit_quantizer(
        quantizer,
        features,
        utterances,
        tmp_path_factory.mktemp("q") / "q.ckpt",
        max_frames=2000,
    )
    batches = GlobalBatches(utterances, plan)
    return [batches[t][0] for t in range(4)], features, quantizer


@pytest.mark.parametrize("local_steps", [0, 1])
def test_it_learns(speech, local_steps):
    batches, features, quantizer = speech
    assert {part.domain for part in batches[0]} == {"en", "es"}
    torch.manual_seed(0)
    brain = make_brain(
        local_steps,
        size=24,
        lr=6e-3,
        features=features,
        encoder=Conformer(
            nn.Linear(80, 48), 1, 48, nhead=4, d_ffn=96, kernel_size=7, dropout=0.0
        ),
        quantizer=quantizer,
        mask_prob=0.12,
        mask_span=3,
    )
    losses = [brain.fit_batch(batches[t % len(batches)]) for t in range(100)]
    assert losses[0] == pytest.approx(math.log(24), abs=0.5)
    assert sum(losses[-8:]) / 8 < math.log(24) - 0.5
