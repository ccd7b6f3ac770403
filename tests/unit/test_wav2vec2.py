"""wav2vec 2.0's objective: the loss of Transformers and SpeechBrain, what is drawn, what
the passes share, and the figures of a collapse; and it learns."""

import copy
import logging
import math
from functools import partial

import numpy as np
import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from transformers import Wav2Vec2ForPreTraining

from hetero_brain import DomainBatch
from hetero_brain.data.datasets import GlobalBatches, Utterances
from hetero_brain.data.loaders import make_plan
from hetero_brain.models.public import PretrainingHeads, PublicEncoder
from hetero_brain.models.public_features import make_public_features
from hetero_brain.objectives.contrasts import draw_contrasts
from hetero_brain.objectives.wav2vec2 import Wav2Vec2Brain, contrast, quantize
from tests.public_models import LARGER, NO_DROPOUT, QUICK, save_small

TRAIN, VALID = sb.Stage.TRAIN, sb.Stage.VALID
NEGATIVES = 10
HPARAMS = dict(
    seed=1,
    mask_prob=0.065,
    mask_span=10,
    n_negatives=NEGATIVES,
    diversity_weight=0.1,
    feature_penalty=0.0,
    gumbel_max=2.0,
    gumbel_min=0.5,
    gumbel_decay=0.9,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("wav2vec2"))


def saved(folder, **changed):
    """The folder of a small wav2vec 2.0 with the layers of its pre-training."""
    changed = QUICK | NO_DROPOUT | {"num_codevectors_per_group": 20} | changed
    return save_small("wav2vec2", folder, "ForPreTraining", **changed)


def modules_of(source, freeze=True):
    return {
        "features": make_public_features(source),
        "encoder": PublicEncoder(source, freeze_front_end=freeze),
        "heads": PretrainingHeads(source),
    }


def make_brain(source, freeze=True, lr=0.01, run_opts=None, modules=None, **changed):
    local = partial(torch.optim.SGD, lr=0.01)
    brain = Wav2Vec2Brain(
        modules or modules_of(source, freeze),
        partial(torch.optim.AdamW, lr=lr),
        HPARAMS | {"local_optimizer": local} | changed,
        {"device": "cpu", **(run_opts or {})},
    )
    brain.on_fit_start()
    brain.modules.train()
    return brain


def utterance(key, seconds):
    draw = torch.Generator().manual_seed(sum(key.encode()))
    return {"id": key, "sig": torch.randn(int(16000 * seconds), generator=draw)}


def batch_of(**seconds):
    return PaddedBatch([utterance(key, length) for key, length in seconds.items()])


def outputs_of(brain, batch, stage=TRAIN):
    brain.modules.train(stage == TRAIN)
    return brain.compute_forward(batch, stage)


# ---------------------------------------------------------------------- the same loss


def of_all_frames(prepared):
    """Masks, negatives and noise as Transformers takes them."""
    _, _, masked, places, inside, negatives, noise, _ = prepared
    n_frames = masked.shape[1]
    everywhere = torch.zeros(*masked.shape, negatives.shape[2], dtype=torch.long)
    of_frames = torch.zeros(*masked.shape, *noise.shape[2:])
    for row in range(len(masked)):
        own = places[row, inside[row]]
        drawn = own[negatives[row, inside[row]]]
        everywhere[row, own] = drawn + row * n_frames
        of_frames[row, own] = noise[row, inside[row]]
    return everywhere, of_frames


@pytest.mark.parametrize("stage", [TRAIN, VALID])
@pytest.mark.parametrize("norm, seconds", [("group", (1, 1)), ("layer", (1, 0.7))])
def test_loss_and_gradients_are_those_of_transformers(
    tmp_path, monkeypatch, norm, seconds, stage
):
    """With few codes, so that some negatives equal the positive."""
    folder = saved(tmp_path, feat_extract_norm=norm, num_codevectors_per_group=4)
    brain = make_brain(folder, freeze=False)
    brain.modules.double()
    batch = batch_of(a=seconds[0], b=seconds[1])
    batch.sig = batch.sig._replace(data=batch.sig.data.double())
    loss, figures = outputs_of(brain, batch, stage)
    prepared = brain.prepared(batch, stage)
    negatives, noise = of_all_frames(prepared)

    def gumbel_softmax(logits, tau, hard):
        assert tau == prepared[-1] == 2.0 and hard
        soft = ((logits + noise.view_as(logits)) / tau).softmax(-1)
        chosen = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1])
        return chosen + (soft - soft.detach())

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", gumbel_softmax)
    theirs = Wav2Vec2ForPreTraining.from_pretrained(folder).double()
    theirs.train(stage == TRAIN)
    x, lengths = brain.modules.features(*batch.sig)
    inside = torch.arange(x.shape[1]) < (batch.sig[1] * x.shape[1])[:, None]
    output = theirs(
        x,
        attention_mask=inside.long() if norm == "layer" else None,
        mask_time_indices=prepared[2],
        sampled_negative_indices=negatives,
    )
    count = prepared[2].sum()
    assert 20 < count < lengths.sum() - 20
    assert 0.05 < figures["same_negatives"] < 0.95
    exact = dict(rtol=1e-6, atol=1e-6, check_dtype=False)  # theirs are in part fp32
    torch.testing.assert_close(
        figures["contrastive_loss"], output.contrastive_loss / count, **exact
    )
    torch.testing.assert_close(
        figures["perplexity"], output.codevector_perplexity, **exact
    )
    torch.testing.assert_close(loss, output.loss / count, **exact)

    if stage == TRAIN:
        loss.backward()
        (output.loss / count).backward()
        encoder = brain.modules.encoder.model
        ours = {f"wav2vec2.{name}": p for name, p in encoder.named_parameters()}
        ours |= dict(brain.modules.heads.named_parameters())
        seen = 0
        for name, param in theirs.named_parameters():
            if param.grad is not None:
                torch.testing.assert_close(
                    ours[name].grad, param.grad, rtol=1e-3, atol=1e-6, msg=name
                )
                seen += bool(param.grad.abs().max() > 1e-5)
        assert seen > 40


def test_loss_is_that_of_speechbrain(source, tmp_path, monkeypatch):
    """Given our masks, and our negatives, where it takes any frame of the utterance."""
    from speechbrain.integrations.huggingface import wav2vec2

    brain = make_brain(source)
    batch = batch_of(a=1, b=1)
    loss, _ = outputs_of(brain, batch, VALID)
    prepared = brain.prepared(batch, VALID)
    negatives, _ = of_all_frames(prepared)
    theirs = wav2vec2.Wav2Vec2Pretrain(source, str(tmp_path), normalize_wav=False)
    # It takes the configuration only, and random weights.
    weights = Wav2Vec2ForPreTraining.from_pretrained(source).state_dict()
    theirs.model.load_state_dict(weights)
    theirs.eval()
    monkeypatch.setattr(
        wav2vec2, "_compute_mask_indices", lambda *_, **__: prepared[2].numpy()
    )
    monkeypatch.setattr(
        wav2vec2.transformers.models.wav2vec2.modeling_wav2vec2,
        "_sample_negative_indices",
        lambda *_, **__: negatives.numpy(),
    )
    x, _ = brain.modules.features(*batch.sig)
    output, masked = theirs(x)
    torch.testing.assert_close(loss, output.loss / masked.sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("freeze", [True, False])
def test_penalty_is_the_mean_square_of_the_front_end_where_it_is_trained(
    source, freeze
):
    brain, batch = make_brain(source, freeze), batch_of(a=1, b=0.6)
    plain, _ = outputs_of(brain, batch)
    brain.hparams.feature_penalty = 10.0
    loss, _ = outputs_of(brain, batch)
    x, lengths = brain.modules.features(*batch.sig)
    latents = brain.modules.encoder.latents(x)
    of_each = [of[:n].square().flatten() for of, n in zip(latents, lengths)]
    expected = plain if freeze else plain + 10 * torch.cat(of_each).mean()
    torch.testing.assert_close(loss, expected)
    assert freeze or loss > plain + 1e-3


# ------------------------------------------------------------------------- what is drawn


def test_negatives_are_uniform_over_the_other_masked_frames():
    masks = np.zeros((3, 30), dtype=bool)
    masks[0, [2, 3, 4, 11, 29]] = True
    masks[1, 7] = True  # alone: nothing to tell it from
    masks[2, [0, 5]] = True
    rngs = [np.random.default_rng(i) for i in range(3)]
    places, inside, negatives = draw_contrasts(masks, 20_000, rngs)
    assert inside.tolist() == [[True] * 5, [False] * 5, [True] * 2 + [False] * 3]
    assert places[inside].tolist() == [2, 3, 4, 11, 29, 0, 5]
    assert not masks[1].any()
    for m in range(5):
        shares = np.bincount(negatives[0, m], minlength=5) / 20_000
        expected = np.full(5, 0.25)
        expected[m] = 0
        np.testing.assert_allclose(shares, expected, atol=0.02)
        assert shares[m] == 0
    assert (negatives[2, 0] == 1).all() and (negatives[2, 1] == 0).all()


def drawn(brain, iteration=0, stage=TRAIN, **seconds):
    """Key → (masked frames, negatives) of every utterance of a batch."""
    brain.optimizer_step = iteration
    _, _, _, places, inside, negatives, _, _ = brain.prepared(
        batch_of(**seconds), stage
    )
    rows = zip(seconds, places, inside, negatives)
    return {key: (p[i].tolist(), n[i].tolist()) for key, p, i, n in rows}


def test_draws_belong_to_seed_iteration_and_utterance(source):
    brain = make_brain(source)
    one = drawn(brain, 7, a=1, b=0.8)
    other = drawn(brain, 7, c=1.5, b=0.8, a=1)
    assert one["a"] == other["a"] and one["b"] == other["b"] != one["a"]
    assert one["a"][0] and drawn(brain, 8, a=1)["a"] != one["a"]
    assert drawn(make_brain(source, seed=2), 7, a=1)["a"] != one["a"]
    assert drawn(brain, 3, VALID, a=1) == drawn(brain, 4, VALID, a=1)


def test_noise_is_gumbel_of_seed_iteration_and_utterances(source):
    brain = make_brain(source)
    noise = {}
    for iteration in (3, 4):
        brain.optimizer_step = iteration
        noise[iteration] = brain.prepare(batch_of(a=4, b=3), iteration)[6]
    again = make_brain(source).prepare(batch_of(a=4, b=3), 3)[6]
    assert torch.equal(noise[3], again) and not torch.equal(noise[3], noise[4])
    assert noise[3].mean() == pytest.approx(0.5772, abs=0.05)
    assert noise[3].std() == pytest.approx(math.pi / 6**0.5, abs=0.05)
    assert not brain.prepare(batch_of(a=4, b=3), -1)[6].any()  # in a validation


def test_temperature_falls_to_its_minimum(source):
    brain = make_brain(source, gumbel_max=2.0, gumbel_min=0.5, gumbel_decay=0.5)
    found = [brain.prepare(batch_of(a=1), t)[7].item() for t in range(4)]
    assert found == [2.0, 1.0, 0.5, 0.5]


def test_codes_have_the_gradient_of_the_softmax(source):
    quantizer = PretrainingHeads(source).quantizer
    torch.nn.init.normal_(quantizer.weight_proj.weight, std=0.3)
    x = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, 1.01 * x], 1)
    noise, inside = torch.zeros(1, 80, 2, 20), torch.ones(1, 80, dtype=torch.bool)
    quantized, codes, _ = quantize(quantizer, x, inside, noise, torch.tensor(0.7))
    same = (codes[0, :40] == codes[0, 40:]).all(-1)
    assert same.sum() > 20
    assert torch.equal(quantized[0, :40][same], quantized[0, 40:][same])
    slopes = torch.randn(quantized.shape)
    (ours,) = torch.autograd.grad(quantized, quantizer.weight_proj.weight, slopes)
    soft = (quantizer.weight_proj(x).unflatten(2, (2, 20)) / 0.7).softmax(-1)
    vectors = quantizer.codevectors.view(2, 20, -1)
    mixed = torch.einsum("bmgv,gvd->bmgd", soft, vectors).flatten(2)
    (expected,) = torch.autograd.grad(mixed, quantizer.weight_proj.weight, slopes)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("mask_prob", [0.0, 0.005])
def test_utterances_without_two_masked_frames_have_nothing_to_learn(
    source, mask_prob, caplog
):
    brain = make_brain(source, mask_prob=mask_prob, mask_span=1, local_steps=1)
    short = DomainBatch("short", (batch_of(a=0.1, b=0.1),))
    brain.fit_batch([short, DomainBatch("long", (batch_of(c=15),))])
    figures = brain.interval_stats()
    assert figures["dropped/short"] == 1
    assert "short is left out: no utterance has two masked frames" in caplog.text
    assert ("loss_at_phi/long" in figures) == bool(mask_prob)


# ------------------------------------------------------------------ what the passes share


@pytest.mark.parametrize("freeze", [True, False])
def test_all_passes_see_one_function(source, freeze, monkeypatch):
    """And a frozen front end is run once for all of them."""
    brain, seen, runs = make_brain(source, freeze, local_steps=2), [], []
    predict, latents = brain.predict, brain.modules.encoder.latents
    monkeypatch.setattr(brain, "predict", lambda *x: seen.append(x) or predict(*x))
    monkeypatch.setattr(
        brain.modules.encoder, "latents", lambda x: runs.append(1) or latents(x)
    )
    brain.fit_batch([DomainBatch("en", (batch_of(a=1, b=0.7),))])
    assert len(seen) == 3 and len(runs) == (1 if freeze else 3)
    for inputs in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(inputs, seen[0]))


def test_what_is_frozen_costs_no_phi_and_no_optimizer_state(source):
    brain = make_brain(source, local_steps=1)
    brain.fit_batch([DomainBatch("en", (batch_of(a=1),))])
    frozen = {*brain.modules.encoder.model.feature_extractor.parameters()}
    trained = [p for p in brain.modules.parameters() if p not in frozen]
    assert len(frozen) >= 5
    assert [*map(id, brain.local_solver.params)] == [*map(id, trained)]
    assert sum(block.numel() for block in brain.local_solver.blocks) <= sum(
        p.numel() + 63 for p in trained
    )
    assert not frozen & {*brain.optimizer.state}


def test_without_local_steps_it_is_speechbrains_brain(source):
    """Bit for bit, over four updates."""
    ours = make_brain(source)
    modules = {name: copy.deepcopy(module) for name, module in ours.modules.items()}
    helper = make_brain(source, modules=modules)

    class Plain(sb.Brain):
        def compute_forward(self, batch, stage):
            return helper.predict(*helper.prepare(batch, self.optimizer_step))

        def compute_objectives(self, predictions, batch, stage):
            return predictions[0]

    plain = Plain(
        modules, partial(torch.optim.AdamW, lr=0.01), run_opts={"device": "cpu"}
    )
    plain.on_fit_start()
    plain.modules.train()
    for i in range(4):
        batch = batch_of(**{f"u{i}": 1, f"v{i}": 0.7})
        loss = ours.fit_batch([DomainBatch("en", (batch,))])
        assert loss == plain.fit_batch(batch)
    for a, b in zip(ours.modules.parameters(), plain.modules.parameters()):
        assert torch.equal(a, b)


# -------------------------------------------------------------------------- a collapse


def collapse(brain):
    """All frames get the first code of each codebook."""
    projection = brain.modules.heads.quantizer.weight_proj
    with torch.no_grad():
        projection.weight.zero_()
        projection.bias.zero_()
        projection.bias[::20] = 200.0  # other probabilities are 0


@pytest.mark.parametrize("local_steps", [0, 1])
def test_a_collapse_is_logged_and_told_once(source, caplog, local_steps):
    brain = make_brain(source, lr=0.0, local_steps=local_steps)
    healthy, ill = (DomainBatch(name, (batch_of(a=1),)) for name in ("fr", "en"))
    brain.fit_batch([healthy])
    figures = brain.interval_stats()
    assert figures["perplexity/fr"] > 10 and figures["same_negatives/fr"] < 0.3
    assert figures["contrastive_loss/fr"] > 1
    assert 0 <= figures["accuracy/fr"] < 0.9
    assert not brain.warned
    caplog.clear()
    collapse(brain)
    for _ in range(2):
        brain.fit_batch([ill])
        with caplog.at_level(logging.WARNING):
            figures = brain.interval_stats()
    assert figures["perplexity/en"] == pytest.approx(2, abs=1e-3)
    assert figures["same_negatives/en"] == 1
    assert figures["contrastive_loss/en"] == pytest.approx(0, abs=1e-6)
    (record,) = caplog.records
    for words in ("collapsed", "en (perplexity 2.0, 100%", "lower learning rates"):
        assert words in record.message
    assert "fr" not in record.message.partition("en (")[0]


def test_a_collapsed_model_has_finite_gradients(source):
    brain = make_brain(source)
    collapse(brain)
    loss, _ = outputs_of(brain, batch_of(a=1))
    loss.backward()
    assert all(
        p.grad.isfinite().all()
        for p in brain.modules.parameters()
        if p.grad is not None
    )


# ---------------------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def speech(sample):
    """Global batches of the shipped sample."""
    train = sample("train", ["en", "es"])
    utterances = Utterances(train, 16000, max_utterance_seconds=2)
    plan = make_plan(train, seed=1, global_batch_seconds=6, max_utterance_seconds=2)
    batches = GlobalBatches(utterances, plan)
    return [batches[t][0] for t in range(4)]


def test_it_learns(speech, tmp_path):
    source = saved(tmp_path, **LARGER)
    changed = dict(mask_prob=0.12, mask_span=3, gumbel_max=0.5, local_steps=1)
    brain = make_brain(source, lr=3e-3, **changed)
    found = []
    for _ in range(5):
        for t in range(20):
            brain.fit_batch(speech[t % 4])
        found.append(brain.interval_stats())
    for domain in ("en", "es"):
        first, last = (at[f"contrastive_loss/{domain}"] for at in (found[0], found[-1]))
        assert first == pytest.approx(math.log(1 + NEGATIVES), abs=0.3)
        assert last < math.log(1 + NEGATIVES) - 0.05
        assert found[-1][f"perplexity/{domain}"] > 10  # and not by a collapse


def test_bf16(source):
    whole, half = (
        make_brain(source, local_steps=1, run_opts={"precision": precision})
        for precision in ("fp32", "bf16")
    )
    losses = [
        brain.fit_batch([DomainBatch("en", (batch_of(a=1, b=0.7),))]).item()
        for brain in (whole, half)
    ]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


def test_codes_that_cannot_be_told_apart_are_no_hits():
    """Where all codes look alike, nothing is recognised: the loss is that of guessing."""
    predicted, quantized = torch.randn(1, 6, 4), torch.ones(1, 6, 4)
    codes = torch.arange(6).reshape(1, 6, 1)
    negatives = torch.tensor([[[j for j in range(6) if j != i] for i in range(6)]])
    inside = torch.ones(1, 6, dtype=torch.bool)
    loss, figures = contrast(predicted, quantized, codes, inside, negatives, 0.1)
    assert loss == pytest.approx(math.log(6)) and figures["accuracy"] == 0
