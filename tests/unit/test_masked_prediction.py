"""Masked prediction on public models: labels of a teacher's layer and of log-mels, the
mask embedding, what is shared and what is frozen; and it learns."""

import copy
import math
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import speechbrain as sb
import torch
import torch.nn.functional as F
from speechbrain.dataio.batch import PaddedBatch
from transformers import AutoModel

from hetero_brain import DomainBatch
from hetero_brain.data.datasets import GlobalBatches, Utterances
from hetero_brain.data.loaders import make_plan
from hetero_brain.errors import InputError
from hetero_brain.models.conformer import make_head
from hetero_brain.models.features import StackedFbank
from hetero_brain.models.public import PublicEncoder
from hetero_brain.models.public_features import make_public_features
from hetero_brain.objectives.masked_prediction import MaskedPredictionBrain
from hetero_brain.objectives.quantizers import (
    KMeansQuantizer,
    fit_quantizer,
    make_quantizer,
)
from hetero_brain.objectives.targets import make_targets
from tests.public_models import LARGER, NO_DROPOUT, QUICK, save_small

TRAIN, VALID = sb.Stage.TRAIN, sb.Stage.VALID
KINDS = ["wav2vec2", "hubert", "wavlm", "data2vec", "w2v_bert"]
LABELS = ["teacher", "kmeans", "random_projection"]
SIZE = 12  # labels


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Kind → folder of a model of it."""
    folder = tmp_path_factory.mktemp("public")
    return {kind: saved(kind, folder / kind) for kind in KINDS}


def saved(kind, folder, **changed):
    """The folder of a small model."""
    changed = QUICK | NO_DROPOUT | changed if kind != "w2v_bert" else {}
    return save_small(kind, folder, **changed)


def utterance(key, seconds):
    draw = torch.Generator().manual_seed(sum(key.encode()))
    time = torch.arange(int(16000 * seconds)) / 16000
    tone = torch.sin(2e3 * time * (1 + torch.rand(1, generator=draw) + time))
    return {"id": key, "sig": tone + 0.1 * torch.randn(len(time), generator=draw)}


def batch_of(**seconds):
    return PaddedBatch([utterance(key, length) for key, length in seconds.items()])


def fitted(labels, targets, seed=0):
    """A quantizer for some targets, fitted on a few utterances."""
    quantizer = make_quantizer(labels, targets.output_size, SIZE, seed=seed)
    if hasattr(quantizer, "fit"):
        x, lengths = targets(*batch_of(s=3, t=2).sig)
        quantizer.fit(torch.cat([of[:n] for of, n in zip(x, lengths)]))
    return quantizer


def make_brain(source, labels="teacher", layer=1, freeze=True, lr=0.01, **changed):
    torch.manual_seed(0)
    targets = changed.pop("targets", None) or make_targets(labels, source, layer)
    modules = {
        "features": make_public_features(source),
        "encoder": PublicEncoder(source, freeze_front_end=freeze),
        "targets": targets,
        "quantizer": changed.pop("quantizer", None) or fitted(labels, targets),
    }
    modules["output"] = make_head(
        modules["encoder"], modules["quantizer"].codebook_size
    )
    brain = MaskedPredictionBrain(
        changed.pop("modules", modules),
        partial(torch.optim.AdamW, lr=lr),
        {
            "seed": 1,
            "mask_prob": 0.1,
            "mask_span": 5,
            "local_optimizer": partial(torch.optim.SGD, lr=0.01),
            **changed,
        },
        {"device": "cpu", "precision": changed.pop("precision", "fp32")},
    )
    brain.on_fit_start()
    brain.modules.train()
    return brain


# ------------------------------------------------------------------------ the same loss


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_labels_and_loss_are_those_of_a_plain_reference(sources, kind, freeze):
    """On Transformers' own model, given the masks."""
    brain = make_brain(sources[kind], freeze=freeze)
    batch = batch_of(a=1)
    loss, hits, labels = brain.compute_forward(batch, TRAIN)
    _, lengths, places, _ = brain.prepared(batch, TRAIN)
    assert 5 < len(places) < lengths.sum() - 5 and labels.shape == (len(places), 1)

    theirs = AutoModel.from_pretrained(sources[kind]).eval()
    x, _ = brain.modules.features(*batch.sig)
    with torch.no_grad():
        layer = theirs(x, output_hidden_states=True).hidden_states[1][0]
    quantizer = brain.modules.quantizer
    centroids = quantizer.centroids @ quantizer.components.T + quantizer.mean
    nearest = torch.cdist(layer.double(), centroids.double()).argmin(1)
    assert torch.equal(labels[:, 0], nearest[places])

    masked = torch.zeros(1, int(lengths), dtype=torch.bool)
    masked[0, places] = True
    encoded = theirs.train()(x, mask_time_indices=masked).last_hidden_state[0]
    logits = brain.modules.output(encoded[places])
    expected = F.cross_entropy(logits, nearest[places])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(hits[:, 0], logits.argmax(1) == nearest[places])


def test_log_mels_have_the_frame_rate_of_every_model(sources, tmp_path):
    published = {"seven convolutions": save_small("hubert", tmp_path)}
    for kind, source in (sources | published).items():
        features = make_public_features(source)
        targets = make_targets("random_projection", source)
        for samples in (16000, 16079, 16080, 16239, 16240, 16319, 16320, 40001):
            sig = torch.randn(1, samples), torch.ones(1)
            frames = int(features(*sig)[1])
            made = targets(*sig)[0].shape[1]
            assert frames <= made <= frames + 2, (kind, samples)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_model_with_labels_of_every_source(sources, kind, labels):
    brain = make_brain(sources[kind], labels, lr=0.0, local_steps=1)
    loss = brain.fit_batch([DomainBatch("en", (batch_of(a=1, b=0.6),))])
    figures = brain.interval_stats()
    assert loss == pytest.approx(math.log(SIZE), abs=1)
    assert 1 / SIZE < figures["codebook_use/en"] <= 1
    assert 0 <= figures["accuracy/en"] < 0.6


def test_features_are_labelled_where_there_are_no_targets(sources):
    """The log-mels of w2v-BERT are, as BEST-RQ's are."""
    source = sources["w2v_bert"]
    quantizer = make_quantizer("random_projection", 160, SIZE)
    brain = make_brain(source, targets=torch.nn.Identity(), quantizer=quantizer)
    del brain.modules["targets"]
    batch = batch_of(a=1, b=0.6)
    x, _, places, labels = brain.prepared(batch, TRAIN)
    assert len(labels) and torch.equal(labels, quantizer(x.flatten(0, 1)[places]))


def test_labels_do_not_depend_on_the_rest_of_the_batch(sources):
    brain = make_brain(sources["hubert"])
    _, _, alone, labels = brain.prepared(batch_of(a=0.7), TRAIN)
    _, _, places, of_both = brain.prepared(batch_of(a=0.7, b=1), TRAIN)
    n = len(alone)
    assert 0 < n < len(places) and torch.equal(places[:n], alone)
    assert torch.equal(of_both[:n], labels)


# ----------------------------------------------------------------- what the passes share


@pytest.mark.parametrize("freeze", [True, False])
def test_teacher_and_frozen_front_end_run_once_a_batch(sources, freeze, monkeypatch):
    brain = make_brain(sources["hubert"], freeze=freeze, local_steps=2)
    runs, seen = Counter(), []
    _, teacher = brain.modules.targets.teacher
    teacher.register_forward_hook(lambda *_: runs.update(["teacher"]))
    predict, latents = brain.predict, brain.modules.encoder.latents
    monkeypatch.setattr(brain, "predict", lambda *x: seen.append(x) or predict(*x))
    monkeypatch.setattr(
        brain.modules.encoder,
        "latents",
        lambda x: runs.update(["front end"]) or latents(x),
    )
    brain.fit_batch([DomainBatch("en", (batch_of(a=1, b=0.7),))])
    assert runs == {"teacher": 1, "front end": 1 if freeze else 3}
    assert len(seen) == 3
    for inputs in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(inputs, seen[0]))


def test_teacher_stays_what_it_was_and_costs_nothing(sources):
    brain, batch = make_brain(sources["hubert"], local_steps=1), batch_of(a=1)
    targets = brain.modules.targets
    _, teacher = targets.teacher
    before, (first, _) = copy.deepcopy(teacher.state_dict()), targets(*batch.sig)
    for _ in range(3):
        brain.fit_batch([DomainBatch("en", (batch,))])
    brain.modules.train()
    assert not teacher.training
    after, _ = targets(*batch.sig)
    assert torch.equal(first, after) and not after.requires_grad
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert not targets.state_dict() and not [*targets.parameters()]
    ours, theirs = ({*m.parameters()} for m in (brain.modules, teacher))
    assert theirs and not ours & theirs
    assert not theirs & {*brain.local_solver.phi_of, *brain.optimizer.state}
    frozen = {*brain.modules.encoder.model.feature_extractor.parameters()}
    assert frozen and not frozen & {*brain.local_solver.params, *brain.optimizer.state}


def test_teacher_moves_with_its_module(sources):
    targets = make_targets("teacher", sources["hubert"], 2).to(torch.float64)
    layer, _ = targets(torch.randn(1, 16000).double(), torch.ones(1))
    assert layer.dtype == torch.float64


def test_teacher_has_no_blocks_behind_its_layer(sources):
    targets = make_targets("teacher", sources["hubert"], 1)
    assert len(targets.teacher[1].blocks.layers) == 1


def test_without_local_steps_it_is_speechbrains_brain(sources):
    """Bit for bit, over four updates."""
    ours = make_brain(sources["hubert"])
    modules = {name: copy.deepcopy(module) for name, module in ours.modules.items()}
    helper = make_brain(sources["hubert"], modules=modules)

    class Plain(sb.Brain):
        def compute_forward(self, batch, stage):
            return helper.predict(*helper.prepare(batch, self.optimizer_step))

        def compute_objectives(self, predictions, batch, stage):
            return predictions[0]

    plain = Plain(modules, partial(torch.optim.AdamW, lr=0.01), None, {"device": "cpu"})
    plain.on_fit_start()
    plain.modules.train()
    for i in range(4):
        batch = batch_of(**{f"u{i}": 1, f"v{i}": 0.7})
        assert ours.fit_batch([DomainBatch("en", (batch,))]) == plain.fit_batch(batch)
    for a, b in zip(ours.modules.parameters(), plain.modules.parameters()):
        assert torch.equal(a, b)


def test_bf16(sources):
    whole, half = (
        make_brain(sources["hubert"], local_steps=1, precision=precision)
        for precision in ("fp32", "bf16")
    )
    losses = [
        brain.fit_batch([DomainBatch("en", (batch_of(a=1, b=0.7),))]).item()
        for brain in (whole, half)
    ]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


# ---------------------------------------------------------------------------- the sample


class Recordings:
    """Stands for Utterances: two domains, of which one has far more."""

    seed = 5
    manifest = SimpleNamespace(domain=np.array([0] * 40 + [1] * 8, dtype=np.int16))

    def __init__(self):
        self.read = Counter()

    def __len__(self):
        return len(self.manifest.domain)

    def batch(self, rows, step):
        self.read[int(self.manifest.domain[rows[0]])] += 1
        return batch_of(**{f"u{rows[0]}": 0.25}), []


@pytest.mark.parametrize(
    "balanced, max_frames, expected",
    [
        (True, 130, {0: 5, 1: 5}),
        (True, 260, {0: 12, 1: 8}),
        (False, 260, {0: 17, 1: 3}),
    ],
)
def test_the_sample_is_balanced_over_domains(tmp_path, balanced, max_frames, expected):
    """As far as they have frames: 13 an utterance."""
    recordings, path = Recordings(), tmp_path / "q.ckpt"
    quantizer = KMeansQuantizer(160, codebook_size=8, n_components=4)
    features = StackedFbank(stack=2)
    fit_quantizer(quantizer, features, recordings, path, max_frames, balanced)
    assert recordings.read == expected


# ----------------------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def speech(sample):
    """Global batches of the shipped sample, and what reads it."""
    train = sample("train", ["en", "es"])
    utterances = Utterances(train, 16000, max_utterance_seconds=2)
    plan = make_plan(train, seed=1, global_batch_seconds=6, max_utterance_seconds=2)
    batches = GlobalBatches(utterances, plan)
    return [batches[t][0] for t in range(4)], utterances


def test_it_learns(speech, tmp_path):
    batches, utterances = speech
    source = saved("wav2vec2", tmp_path, **LARGER)
    targets = make_targets("teacher", source, 1)
    quantizer = make_quantizer("teacher", targets.output_size, SIZE)
    fit_quantizer(quantizer, targets, utterances, tmp_path / "q", 1000, balanced=True)
    changed = dict(mask_prob=0.12, mask_span=3, local_steps=1, lr=3e-3)
    brain = make_brain(source, targets=targets, quantizer=quantizer, **changed)
    losses = [brain.fit_batch(batches[t % 4]) for t in range(60)]
    assert losses[0] == pytest.approx(math.log(SIZE), abs=0.5)
    assert sum(losses[-8:]) / 8 < math.log(SIZE) - 0.2


# ------------------------------------------------------------------------------- errors


def test_targets_of_another_frame_rate_are_refused(sources):
    quantizer = make_quantizer("random_projection", 320, SIZE)
    brain = make_brain(
        sources["hubert"], targets=StackedFbank(stack=4), quantizer=quantizer
    )
    with pytest.raises(ValueError, match="targets: 26 frames where the encoder has 50"):
        brain.compute_forward(batch_of(a=1), TRAIN)


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_that_the_teacher_lacks_is_refused(sources, layer):
    with pytest.raises(
        ValueError, match=f"teacher_layer: {layer}; the teacher has 1 to 2"
    ):
        make_targets("teacher", sources["hubert"], layer)


def test_unknown_labels_are_refused(sources):
    with pytest.raises(
        ValueError, match="labels: mfcc; choose one of teacher, kmeans, rand"
    ):
        make_targets("mfcc", sources["hubert"])
    with pytest.raises(ValueError, match="labels: teacher, n_codebooks: 2"):
        make_quantizer("teacher", 32, SIZE, n_codebooks=2)


def test_teacher_labels_are_clustered_in_all_dimensions():
    assert make_quantizer("teacher", 768, 500).components.shape == (768, 768)
    assert make_quantizer("kmeans", 160, 500).components.shape == (160, 64)


def test_clusters_of_a_teacher_are_tighter_than_those_of_scipy():
    """And all in use, and the same for the same seed."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(60, 16, generator=draw) * 3
    x = centres.repeat(50, 1) + torch.randn(3000, 16, generator=draw)
    inertia, found = [], []
    of_scipy = KMeansQuantizer(16, 40, 16, seed=3)
    of_teachers = (make_quantizer("teacher", 16, 40, seed=3) for _ in range(2))
    for quantizer in (of_scipy, *of_teachers):
        quantizer.fit(x)
        own = quantizer(x).squeeze(1)
        reduced = (x - quantizer.mean) @ quantizer.components
        inertia.append((reduced - quantizer.centroids[own]).square().sum(1).mean())
        found.append(own)
    assert inertia[1] < inertia[0]
    assert len(found[1].unique()) == 40
    assert torch.equal(found[1], found[2])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install 'hetero_brain\[public\]'"):
        make_quantizer("teacher", 16, 4)
    make_quantizer("kmeans", 16, 4)
