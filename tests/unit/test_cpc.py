"""Contrastive predictive coding against plain loops, and the choice of its instances."""

import math

import numpy as np
import pytest
import torch
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch

from hetero_brain import DomainBatch
from hetero_brain.models.conformer import make_encoder
from hetero_brain.models.features import RawFrames
from hetero_brain.objectives.cpc import CPCBrain, FuturePredictor
from hetero_brain.objectives.negatives import draw_negatives
from hetero_brain.training.rng import generator

STEPS, NEGATIVES = 12, 12


def make(causal=True, seed=7, dtype=torch.float32, trained=True, **hparams):
    """A small CPC Brain; ``trained``: with a predictor that is not zero."""
    torch.manual_seed(0)
    features = RawFrames(stack=4)
    encoder = make_encoder("tiny", features.output_size, "conv1d", 0.0, causal)
    predictor = FuturePredictor(encoder.d_model, STEPS)
    if trained:
        torch.nn.init.normal_(predictor.matrices.weight, std=0.1)
    brain = CPCBrain(
        {"features": features, "encoder": encoder, "predictor": predictor},
        lambda params: torch.optim.SGD(params, lr=0.1),
        {"n_negatives": NEGATIVES, "seed": seed, **hparams},
        {"device": "cpu"},
    )
    brain.modules.to(dtype)
    brain.on_fit_start()
    return brain


def batch_of(*seconds, dtype=torch.float32, first=0):
    """Noise at 16 kHz; name and contents of an utterance depend on index + ``first``."""
    examples = []
    for i, length in enumerate(seconds, start=first):
        rng = torch.Generator().manual_seed(i)
        signal = torch.randn(int(16000 * length), generator=rng).to(dtype)
        examples.append({"id": f"u{i}", "sig": signal})
    return PaddedBatch(examples)


def loss_of(brain, batch, stage=Stage.TRAIN):
    return brain.compute_objectives(brain.compute_forward(batch, stage), batch, stage)


def test_loss_equals_a_plain_loop_in_float64():
    brain = make(dtype=torch.float64)
    batch = batch_of(1.1, 0.9, 1.0, dtype=torch.float64)
    x, lengths = brain.modules.features(*batch.sig)
    with torch.no_grad():
        out, hidden = brain.modules.encoder(x, lengths)
    weight = brain.modules.predictor.matrices.weight
    matrices = weight.view(STEPS, brain.modules.encoder.d_model, -1)
    terms = []
    for u, length in enumerate(lengths.tolist()):
        rng = generator(7, "negatives", 0, batch.id[u])
        frames = length - STEPS
        drawn = rng.integers(length - STEPS, size=(frames, NEGATIVES))
        for t in range(frames):
            others = [n for n in range(length) if not t < n <= t + STEPS]
            for k in range(1, STEPS + 1):
                prediction = matrices[k - 1] @ out[u, t]

                def score(n, u=u, prediction=prediction):
                    return prediction @ hidden[0][u, n] / math.sqrt(len(prediction))

                right = score(t + k)
                wrong = [score(others[d]) for d in drawn[t]]
                terms.append(torch.logsumexp(torch.stack([right, *wrong]), 0) - right)
    expected = torch.stack(terms).mean()
    assert abs(expected - math.log(1 + NEGATIVES)) > 1e-3  # it differs from chance
    torch.testing.assert_close(loss_of(brain, batch), expected, rtol=1e-9, atol=1e-12)


def test_loss_at_initialisation_is_chance():
    loss = loss_of(make(trained=False), batch_of(2, 3))
    assert loss.item() == pytest.approx(math.log(1 + NEGATIVES), abs=1e-6)


@pytest.mark.parametrize("length", [13, 14, 30, 200])
def test_negatives_are_uniform_over_what_is_not_a_positive(length):
    draws = 40_000 // (length - STEPS)
    _, negatives = draw_negatives(
        [length], length, STEPS, draws, [np.random.default_rng(0)]
    )
    assert negatives.shape == (length - STEPS, draws)
    for t, drawn in enumerate(negatives):
        counts = np.bincount(drawn, minlength=length)
        assert len(counts) == length
        allowed = np.ones(length, bool)
        allowed[t + 1 : t + STEPS + 1] = False
        assert not counts[~allowed].any()
        assert counts[allowed].min() > 0 or draws < 20 * length
    if length == 30:
        share = np.bincount(negatives[3], minlength=30)[[0, 3, 16, 29]] / draws
        np.testing.assert_allclose(share, 1 / 18, rtol=0.2)


def test_instances_end_where_their_positives_would_leave_the_utterance():
    rngs = [np.random.default_rng(i) for i in range(3)]
    instances, negatives = draw_negatives([15, 12, 14], 20, STEPS, 4, rngs)
    assert instances.tolist() == [0, 1, 2, 40, 41]
    assert (negatives // 20 == instances[:, None] // 20).all()  # of the same utterance


def test_an_utterance_is_scored_alike_whatever_is_beside_it():
    brain = make()
    alone, longer = batch_of(1.5), batch_of(1.5, 4)
    a = brain.compute_forward(alone, Stage.TRAIN)
    b = brain.compute_forward(longer, Stage.TRAIN)[: len(a)]
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_context_does_not_hold_its_positives():
    brain = make()
    x, lengths = brain.modules.features(*batch_of(2).sig)
    later = x.clone()
    later[:, 20:] += 1
    out, changed = (brain.modules.encoder(y, lengths)[0] for y in (x, later))
    torch.testing.assert_close(out[:, :20], changed[:, :20])
    assert (out[:, 20:] != changed[:, 20:]).any()


def test_too_short_utterances_give_no_loss_and_no_fault():
    brain, batch = make(), batch_of(0.5, 0.6)
    loss = loss_of(brain, batch)
    assert loss.item() == 0.0
    loss.backward()  # as fit_batch differentiates it


def test_draws_belong_to_seed_iteration_and_utterance():
    def scores(seed, iteration, stage=Stage.TRAIN):
        brain = make(seed=seed)
        brain.optimizer_step = iteration
        return brain.compute_forward(batch_of(2), stage)

    reference = scores(1, 5)
    assert torch.equal(reference, scores(1, 5))
    assert not torch.equal(reference, scores(1, 6))
    assert not torch.equal(reference, scores(2, 5))
    dev = Stage.VALID
    assert torch.equal(scores(1, 5, dev), scores(1, 6, dev))  # dev losses compare


def test_the_mean_over_instances_does_not_grow_with_the_batch():
    brain = make()
    losses = [loss_of(brain, batch_of(2, first=i)) for i in range(4)]
    together = loss_of(brain, batch_of(2, 2, 2, 2))
    torch.testing.assert_close(
        together, torch.stack(losses).mean(), rtol=1e-4, atol=1e-4
    )


def test_cost_of_the_scores_grows_linearly():
    """By counting operations, not by time."""
    brain = make()

    class Contexts(torch.nn.Module):
        def forward(self, x, lengths):
            contexts = torch.randn(*x.shape[:2], 144)
            return contexts, [contexts]

    brain.modules["encoder"] = Contexts()

    def operations(seconds):
        with torch.profiler.profile(with_flops=True) as profile:
            brain.compute_forward(batch_of(seconds), Stage.TRAIN)
        return sum(event.flops for event in profile.key_averages())

    one, two, four = (operations(s) for s in (4, 8, 16))
    assert (four - two) / (two - one) == pytest.approx(2, rel=0.05)


def test_it_learns_what_can_be_predicted():
    """The next frames of a tone of slowly changing pitch are predictable."""
    brain = make(trained=False, max_grad_norm=5.0)
    time_ = torch.arange(2 * 16000) / 16000
    examples = [
        {"id": f"u{i}", "sig": torch.sin(2e3 * time_ * (1 + i / 8 + time_))}
        for i in range(4)
    ]
    brain.opt_class = lambda params: torch.optim.AdamW(params, lr=2e-3)
    brain.init_optimizers()
    part = DomainBatch("tones", (PaddedBatch(examples),))
    losses, accuracies = [], []
    for _ in range(12):
        losses.append(brain.fit_batch([part]).item())
        accuracies.append(brain.interval_stats()["accuracy/tones"])
    assert losses[0] == pytest.approx(math.log(13), abs=1e-3)
    assert losses[-1] < losses[0] - 0.5
    assert accuracies[0] < 0.3 < accuracies[-1] < 1
