"""Utterances with more units than frames: left out of the loss, and always logged."""

import math
from functools import partial

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch import nn

from hetero_brain import DomainBatch
from hetero_brain.models.conformer import make_head
from hetero_brain.models.decoder import AttentionDecoder
from hetero_brain.models.features import RawFrames, StackedFbank
from hetero_brain.models.readouts import LastLayer
from hetero_brain.pipelines.recipe_run import recipe_brain
from hetero_brain.recognition.ctc import CTCBrain
from hetero_brain.recognition.joint import N_MARKS, JointBrain
from hetero_brain.recognition.spelling import frames_to_spell
from hetero_brain.recognition.tokenizer import train_tokenizer

RUN_OPTS = {"device": "cpu", "noprogressbar": True}
GOOD, BAD = "abc", "aabbccabc"  # 3 frames, and 9 units with 3 blanks between them
N_FRAMES = 10


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    return train_tokenizer([GOOD, BAD], path)


class Frames(nn.Module):
    """Every 4 samples are one frame."""

    stack = 1

    def forward(self, wavs, wav_lens):
        x = wavs.unflatten(1, (-1, 4))
        return x, (wav_lens * x.shape[1]).round().long()


class Layer(nn.Module):
    """An encoder of one layer."""

    d_model = 8

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x, lengths):
        return self.linear(x), []


def make(tokenizer, kind=CTCBrain, run_opts=None, **hparams):
    """A Brain whose encoder is a linear layer on ten frames of four samples."""
    torch.manual_seed(0)
    pieces, encoder = tokenizer.get_piece_size(), Layer()
    n_outputs = pieces + (1 if kind is CTCBrain else N_MARKS)
    modules = {
        "features": Frames(),
        "encoder": encoder,
        "readout": LastLayer(),
        "ctc": make_head(encoder, n_outputs),
    }
    if kind is JointBrain:
        modules["decoder"] = AttentionDecoder(8, n_outputs, 1, 2, 16, dropout=0.0)
    hparams = {
        "tokenizer": tokenizer,
        "searches": {},
        "character_domains": (),
        "freeze_encoder_iterations": 0,
        "augment": None,
        "ctc_weight": 0.3,
        "label_smoothing": 0.0,
        "epochs": 1,
        "valid_interval": 1,
        **hparams,
    }
    opts = {**RUN_OPTS, **(run_opts or {})}
    return recipe_brain(kind)(modules, partial(torch.optim.SGD, lr=0.1), hparams, opts)


def batch_of(tokenizer, *texts, domain="en"):
    """Noise of ten frames for each text, the same for the same text."""
    examples = []
    for i, text in enumerate(texts):
        rng = torch.Generator().manual_seed(len(text))
        signal = torch.randn(4 * N_FRAMES, generator=rng)
        tokens = torch.tensor(tokenizer.encode(text))
        example = {"id": f"{domain}{i}", "sig": signal, "domain": domain, "wrd": text}
        examples.append({**example, "tokens": tokens})
    return PaddedBatch(examples)


def loss_of(brain, batch, stage=sb.Stage.TRAIN):
    return brain.compute_objectives(brain.compute_forward(batch, stage), batch, stage)


# ---------------------------------------------------------------- what CTC can spell


def test_frames_are_those_that_torch_needs():
    """In fewer its loss is infinite."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (200, 7), generator=rng)
    counts = torch.randint(8, (200,), generator=rng)
    needed = frames_to_spell(tokens, counts)
    assert needed.max() > 7 and needed.min() == 0
    log_probs = torch.randn(14, 200, 4, generator=rng).log_softmax(-1)
    for n_frames in range(1, 15):
        losses = nn.functional.ctc_loss(
            log_probs[:n_frames],
            tokens,
            torch.full((200,), n_frames),
            counts,
            blank=3,
            reduction="none",
        )
        assert torch.equal(losses.isinf(), needed > n_frames)


@pytest.mark.parametrize(
    "features",
    [StackedFbank(8000, 40, stack=1), StackedFbank(16000, 80, stack=4), RawFrames(2)],
)
def test_frames_of_features_are_those_of_their_forward(features):
    for samples in (*range(400, 2000, 37), 5119, 5120, 5121, 8000, 16000):
        x, (length,) = features(torch.rand(1, samples), torch.ones(1))
        assert length == x.shape[1] == features.frames(torch.tensor(samples))


# ----------------------------------------------------------------------------- losses


def test_the_loss_is_that_of_the_others_alone(tokenizer):
    brain = make(tokenizer)
    log_probs, lengths = brain.compute_forward(
        batch_of(tokenizer, BAD, GOOD, GOOD), sb.Stage.TRAIN
    )
    log_probs = log_probs.detach().requires_grad_()
    batch = batch_of(tokenizer, BAD, GOOD, GOOD)
    loss = brain.recognition_loss((log_probs, lengths), batch)
    each = nn.functional.ctc_loss(
        log_probs[1:].transpose(0, 1),
        torch.tensor([tokenizer.encode(GOOD)] * 2),
        lengths[1:],
        torch.tensor([3, 3]),
        blank=brain.blank,
        reduction="none",
    )
    torch.testing.assert_close(loss, each.mean())
    (gradient,) = torch.autograd.grad(loss, log_probs)
    (alone,) = torch.autograd.grad(each.mean(), log_probs)
    torch.testing.assert_close(gradient, alone)
    assert not gradient[0].any()


def test_the_share_of_them_is_logged(tokenizer):
    brain = make(tokenizer)
    loss_of(brain, batch_of(tokenizer, BAD, GOOD, GOOD, GOOD))
    loss_of(brain, batch_of(tokenizer, GOOD, GOOD, domain="fr"))
    figures = brain.monitor.pop()
    assert figures == {"unspellable/en": 0.25, "unspellable/fr": 0}


def weights(brain):
    return torch.cat([p.detach().flatten().clone() for p in brain.modules.parameters()])


@pytest.mark.parametrize("local_steps", [0, 2])
def test_a_batch_of_nothing_else_drops_out_and_is_no_fault(
    tokenizer, caplog, local_steps
):
    settings = {
        "run_opts": {"nonfinite_patience": 0},
        "local_steps": local_steps,
        "local_optimizer": partial(torch.optim.SGD, lr=0.1),
    }
    bad = DomainBatch("bad", (batch_of(tokenizer, BAD, BAD, domain="bad"),))
    good = DomainBatch("good", (batch_of(tokenizer, GOOD, domain="good"),))
    one, other = make(tokenizer, **settings), make(tokenizer, **settings)
    for brain in (one, other):
        brain.init_optimizers()
    before = weights(one)
    assert math.isnan(one.fit_batch([bad]))
    assert torch.equal(weights(one), before)
    assert "domain bad is left out: CTC cannot spell any utterance" in caplog.text
    loss = one.fit_batch([bad, good])
    assert loss == other.fit_batch([good])
    torch.testing.assert_close(weights(one), weights(other))
    assert not torch.equal(weights(one), before)
    assert one.nonfinite_count == 0
    assert one.monitor.dropped == {"bad": 2}


class Recorder:
    """Keeps what is logged at the end of a validation."""

    def __init__(self):
        self.valid = []

    def log_stats(self, meta, train_stats=None, valid_stats=None):
        if valid_stats:
            self.valid.append(valid_stats)


def validate(tokenizer, *batches):
    """What is logged of a validation, and the CTC loss of a batch of GOOD alone."""
    recorder = Recorder()
    brain = make(tokenizer, loggers=[recorder])
    brain.init_optimizers()
    brain.train_loss = 1.0
    parts = [DomainBatch(batch.domain[0], (batch,)) for batch in batches]
    sb.Brain._fit_valid(brain, parts, 1, False)
    with torch.no_grad():
        alone = loss_of(brain, batch_of(tokenizer, GOOD)).item()
    return recorder.valid[-1], alone, brain.utterances


@pytest.mark.parametrize("first", [True, False])
def test_the_validation_loss_is_that_of_the_others(tokenizer, first):
    """Wherever a batch in which no utterance can be spelled occurs."""
    bad = batch_of(tokenizer, BAD, BAD, domain="bad")
    good = [batch_of(tokenizer, GOOD), batch_of(tokenizer, GOOD, BAD)]
    batches = [bad, *good] if first else [*good, bad]
    stats, alone, utterances = validate(tokenizer, *batches)
    assert stats["loss"] == pytest.approx(alone)
    assert stats["loss/en"] == pytest.approx(alone) and "loss/bad" not in stats
    assert stats["unspellable/bad"] == 1 and stats["unspellable/en"] == 0.25
    assert stats["dropped/bad"] == 1
    references = [utterance["reference"] for utterance in utterances]
    assert sorted(references) == [BAD, BAD, BAD, GOOD, GOOD]  # errors of all utterances


def test_a_validation_of_nothing_else_does_not_look_perfect(tokenizer):
    stats, *_ = validate(tokenizer, batch_of(tokenizer, BAD))
    assert math.isnan(stats["loss"]) and stats["CER"] > 0


def test_the_decoder_learns_from_what_ctc_cannot_spell(tokenizer):
    brain = make(tokenizer, JointBrain)
    attention = make(tokenizer, JointBrain, ctc_weight=0.0)
    assert torch.equal(weights(brain), weights(attention))
    only_bad = batch_of(tokenizer, BAD)
    share = loss_of(brain, only_bad) / loss_of(attention, only_bad)
    torch.testing.assert_close(share, torch.tensor(0.7))
    # With others the attention loss is the mean over all, CTC's that over the others.
    mixed = batch_of(tokenizer, BAD, GOOD)
    predictions = brain.compute_forward(mixed, sb.Stage.TRAIN)
    one = batch_of(tokenizer, GOOD)
    ctc = CTCBrain.recognition_loss(
        brain, brain.compute_forward(one, sb.Stage.TRAIN), one
    )
    torch.testing.assert_close(
        brain.recognition_loss(predictions, mixed),
        0.3 * ctc + 0.7 * loss_of(attention, mixed),
    )
    gradients = torch.autograd.grad(
        loss_of(brain, only_bad), [*brain.modules.decoder.output.parameters()]
    )
    assert all(g.isfinite().all() and g.any() for g in gradients)
