"""Passes as CUDA graphs: what is captured when, and that padding to few shapes changes
no number. The graphs themselves run on a GPU only (``make gpu``)."""

import logging
from functools import partial

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.logger import MultiProcessLoggerAdapter

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.models.conformer import Conformer, make_head
from hetero_brain.models.features import make_features
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.cpc import CPCBrain
from hetero_brain.objectives.masked_prediction import MaskedPredictionBrain
from hetero_brain.objectives.quantizers import make_quantizer
from hetero_brain.objectives.wav2vec2 import Wav2Vec2Brain
from hetero_brain.training.graphs import PassGraphs, round_up


class Replayed(PassGraphs):
    """Runs the pass again where a GPU would replay its graph."""

    def capture(self, inputs):
        memory = [x.clone() for x in inputs]
        outputs, loss, grads = self.run_pass(*memory)
        self.grads = self.grads or [torch.empty_like(p.detach()) for p in self.params]

        class Graph:
            def replay(_):
                for own, new in zip((loss, *outputs), self.flat(memory)):
                    own.detach().copy_(new.detach())

        present = [grad is not None for grad in grads]
        return Graph(), memory, outputs, loss, present

    def flat(self, memory):
        """Loss and outputs of a pass, whose gradients go to the shared memory."""
        outputs, loss, grads = self.run_pass(*memory)
        for own, new in zip(self.grads, grads):
            if new is not None:
                own.copy_(new)
        return loss, *outputs


def brain_of(local_steps, codebooks=2):
    torch.manual_seed(0)
    features = make_features("linear", 8000, 4, n_mels=20)
    size = features.output_size
    encoder = Conformer(
        torch.nn.Linear(size, 16), 1, 16, nhead=2, d_ffn=16, kernel_size=3, dropout=0.0
    )
    modules = {
        "features": features,
        "quantizer": make_quantizer("random_projection", size, 32, codebooks),
        "encoder": encoder,
        "output": make_head(encoder, 32 * codebooks),
    }
    hparams = dict(seed=0, mask_prob=0.1, mask_span=5, noise_std=0.0)
    hparams |= dict(local_steps=local_steps, max_grad_norm=5.0)
    sgd = partial(torch.optim.SGD, lr=0.1)
    brain = BestRQBrain(modules, sgd, hparams | {"local_optimizer": sgd})
    brain.init_optimizers()
    brain.modules.train()
    return brain


def replayed(brain):
    """The graphs of a Brain, replayed on a CPU."""
    return Replayed(lambda: brain.local_solver.params, brain.run_pass)


def parts():
    """Two domains, of utterances of odd lengths."""
    rng = torch.Generator().manual_seed(1)
    lengths = {"en": range(9100, 9117), "fr": (20011, 8123, 15007)}
    return [
        DomainBatch(
            domain,
            (
                PaddedBatch(
                    [
                        {"id": f"{domain}{n}", "sig": torch.randn(n, generator=rng)}
                        for n in samples
                    ]
                ),
            ),
        )
        for domain, samples in lengths.items()
    ]


@pytest.mark.parametrize("local_steps", [0, 2])
def test_graphs_and_padding_change_no_number(local_steps):
    plain, graphed = brain_of(local_steps), brain_of(local_steps)
    params = graphed.local_solver.params
    graphed.__dict__["graphs"] = graphs = replayed(graphed)
    for turn in range(4):
        losses = [brain.fit_batch(parts()).item() for brain in (plain, graphed)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5), turn
    for ours, reference in zip(params, plain.local_solver.params):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)
    figures, expected = graphed.interval_stats(), plain.interval_stats()
    assert figures == pytest.approx(expected, rel=1e-4, abs=1e-5)
    # Domains have shapes of their own; local steps start from θ and go on from φ.
    places = 2 if local_steps else 1
    shapes = {key[1] for key in graphs.graphs}
    assert len(shapes) == 2 and len(graphs.graphs) >= 2 * places
    assert any(shape[0][0] == 18 for shape in shapes)  # utterances for 17


@pytest.mark.parametrize("local_steps", [0, 1])
def test_graphs_fit_what_is_trained_now(local_steps):
    plain, graphed = brain_of(local_steps), brain_of(local_steps)
    graphed.__dict__["graphs"] = graphs = replayed(graphed)
    for frozen in (False, True, True, True, False):
        for brain in (plain, graphed):
            for param in brain.modules.encoder.front_end.parameters():
                param.requires_grad_(not frozen)
        losses = [
            brain.fit_batch(parts()).item() for brain in (plain, graphed) for _ in "ab"
        ]
        assert losses[2:] == pytest.approx(losses[:2], rel=1e-5)
        assert graphs.graphs
    pairs = zip(plain.modules.parameters(), graphed.modules.parameters())
    for reference, ours in pairs:
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


class Mean(HeteroBrain):
    """Of no shape in particular."""


@pytest.mark.parametrize(
    "kind, settings, reason",
    [
        (BestRQBrain, {"hypergradient": "exact"}, "hypergradient: .* first_order"),
        (BestRQBrain, {"recomputed": "blocks"}, "set recomputed to none"),
        (MaskedPredictionBrain, {}, "public model"),
        (Wav2Vec2Brain, {}, "masked frames"),
        (CPCBrain, {}, "instances"),
        (Mean, {}, "Mean does not prepare"),
    ],
)
def test_graphs_that_cannot_be_are_refused(kind, settings, reason):
    recomputed = settings.pop("recomputed", "none")
    encoder = Conformer(
        torch.nn.Linear(4, 4), 1, 4, nhead=1, d_ffn=4, recomputed=recomputed
    )
    settings |= {"local_steps": 0, "cuda_graphs": True}
    with pytest.raises(ValueError, match=f"^cuda_graphs: True is not .*{reason}"):
        kind({"encoder": encoder}, hparams=settings)
    kind({"encoder": encoder}, hparams={**settings, "cuda_graphs": False})


def test_graphs_without_a_gpu_are_warned_of(caplog):
    caplog.set_level(logging.WARNING)
    MultiProcessLoggerAdapter.warning_once.cache_clear()
    brain = BestRQBrain(hparams={"cuda_graphs": True}, run_opts={"device": "cpu"})
    assert brain.graphs is None
    assert "cuda_graphs: True has no effect on cpu" in caplog.text


def test_a_shape_is_captured_when_it_comes_again():
    weight = torch.nn.Parameter(torch.ones(2))
    passes = []

    def run_pass(x):
        passes.append(tuple(x.shape))
        return (x.sum(),), (weight * x).sum(), [x.sum(0)]

    params = [weight]
    graphs = Replayed(lambda: params, run_pass)
    for rows in (3, 4, 3):
        _, loss, grads = graphs(torch.ones(rows, 2))
        assert (loss.item(), grads[0].tolist()) == (2 * rows, [rows] * 2)
    assert [key[1][0] for key in graphs.graphs] == [(3, 2)]
    (before,), _, _ = graphs(torch.ones(3, 2))
    _, _, grads = graphs(2 * torch.ones(3, 2))
    assert before == 6 and grads[0].tolist() == [6, 6]  # outputs are copies


def test_sizes_are_few_and_at_most_an_eighth_larger():
    rounded = [round_up(size) for size in range(1, 5000)]
    assert all(s <= r <= s * 9 / 8 for s, r in enumerate(rounded, 1))
    assert len({r for r in rounded if r >= 512}) < 30 and rounded[511] == 512
