"""What is random of a batch is the same, whether loader workers or the Brain draw it."""

import pickle
from functools import partial

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from hetero_brain.domain_batch import drawn
from hetero_brain.models.features import RawFrames, StackedFbank
from hetero_brain.models.frame_count import FrameCount
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.contrasts import ContrastDrawer
from hetero_brain.objectives.cpc import CPCBrain, FuturePredictor
from hetero_brain.objectives.masking import MaskDrawer
from hetero_brain.objectives.negatives import NegativeDrawer
from hetero_brain.objectives.quantizers import RandomProjectionQuantizer
from hetero_brain.pipelines import pretraining

HPARAMS = dict(seed=1, mask_prob=0.1, mask_span=5, noise_std=0.3, n_negatives=3)
HPARAMS["local_optimizer"] = partial(torch.optim.SGD, lr=0.1)


def batch_of(*seconds):
    rows = []
    for i, length in enumerate(seconds):
        rng = torch.Generator().manual_seed(i)
        signal = torch.randn(int(8000 * length), generator=rng)
        rows.append({"id": f"u{i}", "sig": signal})
    return PaddedBatch(rows)


def modules_of(kind):
    if kind is CPCBrain:
        return {"features": RawFrames(stack=1), "predictor": FuturePredictor(8, 4)}
    features = StackedFbank(8000, n_mels=10)
    quantizer = RandomProjectionQuantizer(features.output_size, 4, 16)
    return {"features": features, "quantizer": quantizer}


def same(ones, others):
    return all(
        torch.equal(a, b) if torch.is_tensor(a) else a == b
        for a, b in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("iteration", [0, 5, -1])
@pytest.mark.parametrize("kind", [BestRQBrain, CPCBrain])
def test_what_came_with_a_batch_is_used_if_it_is_of_this_iteration(
    kind, iteration, monkeypatch
):
    brain = kind(modules_of(kind), HPARAMS["local_optimizer"], HPARAMS)
    drawer, seconds = pickle.loads(pickle.dumps(brain.drawer)), (1.2, 3, 2)
    expected = brain.prepare(batch_of(*seconds), iteration)
    assert len(expected[2]) > 10  # masked frames, or instances
    ahead, earlier, others = (batch_of(*seconds) for _ in range(3))
    drawn(drawer, ahead, iteration)
    drawn(drawer, earlier, iteration - 1)
    drawn(brain.make_drawer(brain.modules, {**HPARAMS, "seed": 2}), others, iteration)
    for batch in (earlier, others):
        assert same(brain.prepare(batch, iteration), expected)
    monkeypatch.delattr(type(drawer), "__call__")
    assert same(brain.prepare(ahead, iteration), expected)


@pytest.mark.parametrize(
    "draw",
    [
        partial(MaskDrawer, mask_prob=0.1, mask_span=5),
        partial(ContrastDrawer, mask_prob=0.1, mask_span=5, n_negatives=3),
        partial(NegativeDrawer, n_steps=4, n_negatives=3),
    ],
)
def test_draws_are_of_seed_iteration_and_lengths(draw):
    drawer = draw(seed=1, frames=FrameCount(((400, 320), (2, 2))))
    batch = batch_of(2, 3)
    assert not {*vars(drawer)} & {"features", "modules"}
    assert len(pickle.dumps(drawer)) < 500  # no model goes to the workers
    assert same(drawer(batch, 4), drawer(batch_of(2, 3), 4))
    assert not same(drawer(batch, 4), drawer(batch, 5))
    assert not same(drawer(batch, 4), draw(seed=2, frames=drawer.frames)(batch, 4))


@pytest.mark.parametrize("samples", [1, 79, 80, 81, 639, 640, 641, 5000])
def test_frames_are_those_of_the_features(samples):
    counted = torch.tensor([samples])
    for features in (StackedFbank(8000, n_mels=10), RawFrames(stack=2)):
        x, lengths = features(torch.rand(1, samples), torch.ones(1))
        assert features.frames(counted) == lengths == x.shape[1]


def test_pretraining_has_the_loaders_draw(sample, tmp_path, monkeypatch):
    loaders = []
    monkeypatch.setattr(pretraining, "run_phases", lambda *args: loaders.extend(args))
    modules = modules_of(BestRQBrain)
    hparams = {
        **HPARAMS,
        "brain_class": BestRQBrain,
        "modules": modules,
        "output_folder": tmp_path,
        "local_optimizer_state": "fresh",
        "sample_rate": 8000,
        "global_batch_seconds": 10,
        "plan": {"global_batch_seconds": 10, "max_utterance_seconds": 4},
        "loader": {},
        "only_phases": None,
        "phases": [],
    }
    rows = sample("dev", ["en", "es"])
    pretraining.pretrain(hparams, {"device": "cpu"}, rows, rows)
    brain = BestRQBrain(modules, HPARAMS["local_optimizer"], HPARAMS)
    assert [loader.dataset.drawer for loader in loaders[3:]] == [brain.drawer] * 2


def test_no_module_is_sent_to_workers():
    """Not even features of one's own, whose method counts frames."""

    class Own(torch.nn.Module):
        def frames(self, samples):
            return samples // 80

    modules = {"features": Own()}
    assert BestRQBrain.loader_drawer(modules, HPARAMS) is None
    assert BestRQBrain.make_drawer(modules, HPARAMS).frames(800) == 10
    modules["features"].frames = FrameCount(((0, 80),))
    assert BestRQBrain.loader_drawer(modules, HPARAMS).mask_span == 5
