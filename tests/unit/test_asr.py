"""Fine-tuning: it fits its data, freezes the encoder on request, and counts errors."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pytest
import speechbrain as sb
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.decoders.ctc import CTCBeamSearcher
from speechbrain.utils.checkpoints import Checkpointer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from hetero_brain import DomainBatch
from hetero_brain.models.conformer import Conformer, make_head
from hetero_brain.models.features import StackedFbank
from hetero_brain.models.readouts import LastLayer, WeightedLayers
from hetero_brain.models.run_folder import progress
from hetero_brain.models.transfer import find_checkpoint, load_module
from hetero_brain.pipelines.finetuning import finetune, recogniser
from hetero_brain.recognition.alignments import write_alignments
from hetero_brain.recognition.ctc import CTCBrain
from hetero_brain.recognition.error_rates import error_rates
from hetero_brain.recognition.latent_masks import latent_masks
from hetero_brain.recognition.tokenizer import train_tokenizer
from hetero_brain.training.loggers import JsonLinesLogger
from hetero_brain.training.schedules import HoldThenDecay

RECIPE = Path(__file__).parents[2] / "recipes/VoicePrompts"
RUN_OPTS = {"device": "cpu", "noprogressbar": True}
TEXTS = ["the cat sat", "on the mat", "a dog's tea"]


@pytest.fixture(scope="module")
def ten(sample):
    """The ten shortest transcribed Spanish prompts of the sample."""
    train = sample("train", ["es"])
    order = sorted(range(len(train)), key=lambda i: train.duration[i])
    return train.subset([i for i in order if " " in train[i]["wrd"]][:10])


def settings(folder, dropout=0.0, **changed):
    """As a recipe's ``ctc.yaml``, tiny."""
    torch.manual_seed(0)
    encoder = Conformer(
        nn.Linear(160, 48),
        2,
        d_model=48,
        nhead=4,
        d_ffn=96,
        kernel_size=7,
        dropout=dropout,
    )
    return {
        "output_folder": str(folder),
        "unit": "char",
        "vocab_size": 1000,
        "modules": {
            "features": StackedFbank(8000, n_mels=40, stack=4),
            "encoder": encoder,
            "readout": LastLayer(),
        },
        "pretrained": None,
        "beam_size": None,
        "epochs": 60,
        "opt_class": partial(torch.optim.AdamW, lr=4e-3),
        "sample_rate": 8000,
        "seed": 1,
        "loader": {},
        "eval_batch_seconds": 30,
        "eval_splits": ["dev"],
        "plan": {"global_batch_seconds": 6},
        "freeze_encoder_iterations": 0,
        "augment": None,
        "valid_interval": 40,
        **changed,
    }


def test_ctc_fits_ten_utterances(ten, tmp_path):
    """Greedy on dev while training, by beam search in the final evaluation."""
    recorded = []
    recorder = SimpleNamespace(log_stats=lambda meta, **stats: recorded.append(stats))
    hparams = settings(tmp_path, beam_size=8, train_logger=recorder)
    rates = finetune(hparams, RUN_OPTS, {"train": ten, "dev": ten})
    assert rates["dev"] == {"CER": 0, "WER": 0, "CER/es": 0, "WER/es": 0}
    results = json.loads((tmp_path / "dev.json").read_text("utf-8"))
    assert {r["id"]: r["hypothesis"] for r in results} == {
        r["ID"]: r["wrd"] for r in ten
    }
    assert len(results) == 10
    for rate in ("wer", "cer"):
        stats = (tmp_path / f"{rate}_dev.txt").read_text("utf-8")
        assert stats.startswith("%WER 0.00 [ 0 / ") and stats.count("es/") == 10
    for result in results:
        assert result["words"] == len(result["reference"].split()) > 1
        assert result["chars"] == len(result["reference"])
    log = JsonLinesLogger.read(tmp_path / "log.jsonl")
    valid = [entry for entry in log if "valid" in entry]
    assert [entry["epoch"] for entry in valid] == [40, 60]
    assert valid[-1]["valid"]["CER"] == 0
    assert [stats.get("valid_stats", {}).get("CER") for stats in recorded] == [
        entry.get("valid", {}).get("CER") for entry in log
    ]
    assert matplotlib.image.imread(tmp_path / "curves.png").shape[2] == 4
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    cer = [(event.step, event.value) for event in board.Scalars("CER/es/valid")]
    expected = [(entry["iteration"], entry["valid"]["CER/es"]) for entry in valid]
    assert [step for step, _ in cer] == [step for step, _ in expected]
    assert [x for _, x in cer] == pytest.approx([x for _, x in expected])


@pytest.mark.parametrize("patience, epochs", [(2, 4), (None, 6)])
def test_patience_ends_a_run_that_learns_nothing(
    ten, tmp_path, unplotted, patience, epochs
):
    """The first of its validations, in every second epoch, stays the best."""
    hparams = settings(tmp_path, epochs=6, valid_interval=2, patience=patience)
    hparams["opt_class"] = partial(torch.optim.SGD, lr=0.0)

    def validated():
        finetune(hparams, RUN_OPTS, {"train": ten, "dev": ten})
        log = JsonLinesLogger.read(tmp_path / "log.jsonl")
        return [entry["epoch"] for entry in log if "valid" in entry]

    for _ in range(2):  # the second time it has ended, and does not go on
        assert validated() == [*range(2, epochs + 1, 2)]
        assert progress(tmp_path) == (epochs, 6, True)
    hparams |= {"epochs": 8, "patience": 4}  # a run that has stopped, too, goes on
    assert validated() == ([2, 4, 6] if patience else [2, 4, 6, 8])
    assert progress(tmp_path)[2]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"patience": 0}, "patience: 0 is not an integer ≥ 1"),
        (
            {"train_logger": "tensorboard"},
            "train_logger: 'tensorboard' is not a train l",
        ),
        ({"train_logger": [None]}, "train_logger: .* or a list of them"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        finetune(settings(tmp_path, **wrong), RUN_OPTS, {})
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- decoding


def brain_for(tokenizer, beam_size=None, **hparams):
    """A CTCBrain whose features are its inputs and whose encoder is one layer."""
    blank = tokenizer.get_piece_size()
    search = None
    if beam_size:
        pieces = [tokenizer.id_to_piece(i) for i in range(blank)]
        search = CTCBeamSearcher(blank, [*pieces, ""], beam_size=beam_size)
    torch.manual_seed(0)
    encoder = Layer()
    modules = {
        "features": Frames(),
        "encoder": encoder,
        "readout": LastLayer(),
        "ctc": make_head(encoder, blank + 1),
    }
    modules |= {k: hparams.pop(k) for k in list(hparams) if k in modules}
    brain = CTCBrain(
        modules,
        opt_class=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1),
        hparams={
            "tokenizer": tokenizer,
            "searches": {} if search is None else {sb.Stage.TEST: search},
            "character_domains": (),
            "freeze_encoder_iterations": 0,
            "augment": None,
            **hparams,
        },
        run_opts=RUN_OPTS,
    )
    brain.init_optimizers()
    return brain


class Frames(nn.Module):
    """Every 4 samples are two feature frames stacked."""

    stack = 2

    def forward(self, wavs, wav_lens):
        x = wavs.unflatten(1, (-1, 4))
        return x, (wav_lens * x.shape[1]).round().long()


class Layer(nn.Module):
    """An encoder of one layer with dropout."""

    d_model = 8

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(4, 8), nn.Dropout(0.5)

    def forward(self, x, lengths):
        out = self.dropout(self.linear(x))
        return out, [self.linear(x).flip(-1), out]


@pytest.fixture(scope="module", params=["char", "unigram"])
def tokenizer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    return train_tokenizer(TEXTS * 5, path, request.param, vocab_size=20)


def confident(tokenizer, texts, p=0.9):
    """Log-probabilities that spell each text: every unit twice, with blanks between."""
    blank = tokenizer.get_piece_size()
    paths = []
    for text in texts:
        path = [blank]
        for unit in tokenizer.encode(text):
            path += [unit, unit, blank]
        paths.append(path)
    frames = torch.tensor([len(path) for path in paths])
    # Frames in the padding spell something else.
    probs = torch.full((len(paths), int(frames.max()), blank + 1), (1 - p) / blank)
    probs[:, :, tokenizer.encode("cat")[-1]] = p
    for row, path in zip(probs, paths):
        row[: len(path)] = (1 - p) / blank
        row[torch.arange(len(path)), torch.tensor(path)] = p
    return probs.log(), frames


def test_beam_search_gives_words_and_agrees_with_greedy(tokenizer):
    brain = brain_for(tokenizer, beam_size=5)
    predictions = confident(tokenizer, TEXTS)
    greedy = brain.decode(predictions, sb.Stage.VALID)
    assert [" ".join(text.split()) for text in greedy] == TEXTS
    beam = brain.decode(predictions, sb.Stage.TEST)
    assert [" ".join(text.split()) for text in beam] == TEXTS


def test_beam_search_sums_over_alignments(tokenizer):
    """Greedy takes the best path, beam search the best text."""
    unit, blank = tokenizer.encode("cat")[-1], tokenizer.get_piece_size()
    log_probs = torch.full((1, 2, blank + 1), 1e-9)
    log_probs[0, :, blank], log_probs[0, :, unit] = 0.6, 0.4
    log_probs = log_probs.log()  # blank blank: 0.36; with the unit: 0.64
    brain = brain_for(tokenizer, beam_size=5)
    assert brain.decode((log_probs, torch.tensor([2])), sb.Stage.VALID) == [""]
    (text,) = brain.decode((log_probs, torch.tensor([2])), sb.Stage.TEST)
    assert text == tokenizer.decode([unit])


@pytest.mark.parametrize("beam_size", [None, 4])
def test_an_unknown_unit_is_one_character_in_each_search(
    tokenizer, tmp_path, beam_size
):
    """And leaves the word that it is in one word."""
    hparams = settings(tmp_path, beam_size=beam_size)
    _, _, searches = recogniser(hparams, tokenizer)
    brain = brain_for(tokenizer)
    brain.hparams.searches = searches
    blank, (c, *_, t) = tokenizer.get_piece_size(), tokenizer.encode("cat")
    path = torch.tensor([c, blank, tokenizer.unk_id(), blank, t])
    log_probs = (9.0 * nn.functional.one_hot(path, blank + 1)).log_softmax(-1)
    (text,) = brain.decode((log_probs.unsqueeze(0), torch.tensor([5])), sb.Stage.TEST)
    whole = tokenizer.decode([c]).strip() + "⁇" + tokenizer.id_to_piece(t)
    assert text.strip() == whole and " " not in whole


def labelled_batch(tokenizer, texts=TEXTS, domain="en"):
    generator = torch.Generator().manual_seed(0)
    return PaddedBatch(
        [
            {
                "id": f"{domain}{i}",
                "sig": torch.randn(4 * (40 + 5 * i), generator=generator),
                "domain": domain,
                "wrd": text,
                "tokens": torch.tensor(tokenizer.encode(text)),
            }
            for i, text in enumerate(texts)
        ]
    )


def test_the_loss_is_ctc_per_utterance(tokenizer):
    brain, batch = brain_for(tokenizer), labelled_batch(tokenizer)
    brain.modules.eval()
    log_probs, lengths = brain.compute_forward(batch, sb.Stage.VALID)
    assert lengths.tolist() == [40, 45, 50]
    brain.on_stage_start(sb.Stage.VALID, 1)
    loss = brain.compute_objectives((log_probs, lengths), batch, sb.Stage.VALID)
    blank = log_probs.shape[-1] - 1
    each = [
        nn.functional.ctc_loss(
            row[:n],
            torch.tensor(tokenizer.encode(text)),
            (int(n),),
            (len(units),),
            blank,
            reduction="sum",
        )
        for row, n, text in zip(log_probs, lengths, TEXTS)
        for units in [tokenizer.encode(text)]
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert [u["reference"] for u in brain.utterances] == TEXTS


def test_augmentation_acts_on_feature_frames_and_in_training_only(tokenizer):
    seen = []

    def augment(x):
        seen.append(x.clone())
        return torch.zeros_like(x)

    brain = brain_for(tokenizer, augment=augment)
    batch = labelled_batch(tokenizer)
    inputs = []
    brain.modules.encoder.register_forward_pre_hook(
        lambda m, args: inputs.append(args[0])
    )
    brain.compute_forward(batch, sb.Stage.VALID)
    assert not seen and inputs[-1].any()
    brain.compute_forward(batch, sb.Stage.TRAIN)
    assert torch.equal(seen[0], batch.sig.data.view(3, 100, 2))
    assert inputs[-1].shape == (3, 50, 4) and not inputs[-1].any()


class Masked(Layer):
    """Notes what it masks, and leaves only that of its inputs."""

    def latents(self, x):
        return x

    def contexts(self, x, lengths, masked):
        self.masked = masked
        return super().forward(x * masked.unsqueeze(2), lengths)


def test_latents_are_masked_in_training_only(tokenizer):
    batch, encoder = labelled_batch(tokenizer), Masked().eval()
    brain = brain_for(tokenizer, encoder=encoder, mask_prob=0.1, mask_span=3, seed=5)
    plain = brain_for(tokenizer, encoder=encoder)
    expected = plain.compute_forward(batch, sb.Stage.VALID)[0]
    assert torch.equal(brain.compute_forward(batch, sb.Stage.VALID)[0], expected)
    assert not hasattr(encoder, "masked")
    brain.compute_forward(batch, sb.Stage.TRAIN)
    masked = encoder.masked
    assert masked.shape == (3, 50) and masked.any() and not masked.all()
    assert not masked[0, 40:].any() and not masked[1, 45:].any()
    # Without them, training computes what it did before there were any.
    del encoder.masked
    outputs = []
    for one in (plain, brain_for(tokenizer, encoder=encoder, mask_prob=0)):
        torch.manual_seed(7)
        outputs.append(one.compute_forward(batch, sb.Stage.TRAIN)[0])
    assert torch.equal(*outputs) and not hasattr(encoder, "masked")


def test_latent_masks_have_the_share_and_the_spans_that_they_say():
    torch.manual_seed(0)
    masks = latent_masks(torch.full((50,), 2000), 2000, mask_prob=0.02, mask_span=10)
    assert masks.float().mean().item() == pytest.approx(1 - 0.98**10, abs=0.01)
    assert masks[:, 0].any()  # a span may have begun before the first frame
    edges = masks[:, 1:-1].int().diff(dim=1)
    starts, ends = (edges == 1).nonzero(), (edges == -1).nonzero()
    for row in range(50):
        first = starts[starts[:, 0] == row, 1]
        last = ends[ends[:, 0] == row, 1]
        last = last[last > first[0]]
        runs = last - first[: len(last)]
        assert runs.min() >= 10


# ------------------------------------------------------------------ freezing and probes


def parameters(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_a_frozen_encoder_stays_and_then_learns(tokenizer):
    brain = brain_for(tokenizer, freeze_encoder_iterations=3)
    part = DomainBatch("en", (labelled_batch(tokenizer),))
    encoder = parameters(brain.modules.encoder)
    for _ in range(3):
        ctc = parameters(brain.modules.ctc)
        brain.modules.train()
        brain.fit_batch([part])
        assert not brain.modules.encoder.training  # no dropout either
        assert torch.equal(parameters(brain.modules.encoder), encoder)
        assert not torch.equal(parameters(brain.modules.ctc), ctc)
    brain.fit_batch([part])
    assert brain.modules.encoder.training
    assert not torch.equal(parameters(brain.modules.encoder), encoder)


def test_the_encoder_has_a_rate_of_its_own(tokenizer):
    """In its first step, Adam moves each weight by the learning rate."""
    schedule = HoldThenDecay(9, warmup_iterations=4)  # a quarter of the rates
    brain = brain_for(tokenizer, encoder_lr=0.02, lr_schedule=schedule)
    brain.opt_class = partial(torch.optim.Adam, lr=0.1)
    brain.init_optimizers()
    before = {k: parameters(brain.modules[k]) for k in ("encoder", "ctc")}
    brain.fit_batch([DomainBatch("en", (labelled_batch(tokenizer),))])
    moved = {k: parameters(brain.modules[k]) - old for k, old in before.items()}
    assert moved["encoder"].abs().max().item() == pytest.approx(0.005, rel=1e-3)
    assert moved["ctc"].abs().max().item() == pytest.approx(0.025, rel=1e-3)
    assert brain.rates() == pytest.approx({"lr": 0.025, "encoder_lr": 0.005})
    assert [*brain_for(tokenizer).rates()] == ["lr"]


def test_gradients_of_both_optimizers_are_clipped(tokenizer):
    brain = brain_for(tokenizer, encoder_lr=1.0)
    brain.opt_class, brain.max_grad_norm = partial(torch.optim.SGD, lr=1.0), 0.01
    brain.init_optimizers()
    before = {k: parameters(brain.modules[k]) for k in ("encoder", "ctc")}
    brain.fit_batch([DomainBatch("en", (labelled_batch(tokenizer),))])
    for name, old in before.items():
        step = parameters(brain.modules[name]) - old
        assert step.norm().item() == pytest.approx(0.01, rel=1e-2)


def test_an_encoder_with_a_rate_rests_while_it_is_frozen(tokenizer):
    brain = brain_for(tokenizer, encoder_lr=0.1, freeze_encoder_iterations=2)
    part = DomainBatch("en", (labelled_batch(tokenizer),))
    encoder = parameters(brain.modules.encoder)
    for _ in range(2):
        assert [*brain.freeze_optimizers(brain.optimizers_dict)] == ["opt_class"]
        brain.fit_batch([part])
        assert torch.equal(parameters(brain.modules.encoder), encoder)
    assert not brain.encoder_optimizer.state
    assert [*brain.freeze_optimizers(brain.optimizers_dict)] == ["opt_class", "encoder"]
    brain.fit_batch([part])
    assert not torch.equal(parameters(brain.modules.encoder), encoder)


def test_both_rates_are_logged_and_speeds_are_augmented(ten, tmp_path, caplog):
    """And evaluated by a recogniser that knows neither."""
    perturb = SpeedPerturb(8000, [90, 110])
    hparams = settings(
        tmp_path, epochs=2, encoder_lr=1e-3, valid_interval=1, log_interval=1
    )
    hparams["wav_augment"] = Augmenter(augmentations=[perturb])
    seen, features = [], hparams["modules"]["features"]
    features.register_forward_pre_hook(
        lambda module, args: seen.append((module.training, args[0].shape[1]))
    )
    finetune(hparams, RUN_OPTS, {"train": ten, "dev": ten})
    assert caplog.text.count(", lr 0.004, encoder lr 0.001\n") == 4
    log = JsonLinesLogger.read(tmp_path / "log.jsonl")
    assert {(e["lr"], e["encoder_lr"]) for e in log} == {(4e-3, 1e-3)}
    for training, length in seen:
        off = min(abs(length - 8000 * second) for second in ten.duration)
        assert (off > 9) == training


def test_a_probe_trains_readout_and_ctc_only(tokenizer):
    brain = brain_for(
        tokenizer, freeze_encoder_iterations=math.inf, readout=WeightedLayers(1)
    )
    part = DomainBatch("en", (labelled_batch(tokenizer),))
    before = {
        name: parameters(brain.modules[name]) for name in ("encoder", "readout", "ctc")
    }
    for _ in range(4):
        brain.fit_batch([part])
    changed = {
        name: not torch.equal(parameters(brain.modules[name]), old)
        for name, old in before.items()
    }
    assert changed == {"encoder": False, "readout": True, "ctc": True}


# ------------------------------------------------------------------------- error rates


def noted(tokenizer, *triples, **hparams):
    """The recorded errors of (domain, reference, hypothesis) triples."""
    brain = brain_for(tokenizer, **hparams)
    brain.utterances = []
    for i, (domain, reference, hypothesis) in enumerate(triples):
        batch = PaddedBatch([{"id": f"u{i}", "domain": domain, "wrd": reference}])
        brain.note_errors(batch, [hypothesis])
    return brain.utterances


def test_error_rates_by_hand(tokenizer):
    notes = noted(
        tokenizer,
        ("en", "the cat sat", "the  cat sat "),  # spaces are no errors
        ("en", "a dog", "a dot is"),  # 1 substituted, 1 inserted; 1 + 3 characters
        ("fr", "oui", ""),  # 1 deleted; 3 characters
        ("fr", "", "non"),  # empty reference, 1 inserted; 3 characters
        ("xx", "", ""),
    )
    assert [u["word_errors"] for u in notes] == [0, 2, 1, 1, 0]
    assert [u["words"] for u in notes] == [3, 2, 1, 0, 0]
    assert [u["char_errors"] for u in notes] == [0, 4, 3, 3, 0]
    assert [u["chars"] for u in notes] == [11, 5, 3, 0, 0]
    assert notes[1] | {"hypothesis": "a dot is", "domain": "en", "id": "u1"} == notes[1]
    rates = error_rates(notes)
    assert rates.pop("CER/xx") != rates.pop("WER/xx")  # NaN
    assert rates == pytest.approx(
        {
            "CER": 100 * 10 / 19,
            "WER": 100 * 4 / 6,
            "CER/en": 100 * 4 / 16,
            "WER/en": 100 * 2 / 5,
            "CER/fr": 200.0,
            "WER/fr": 200.0,
        }
    )


def test_alignments_are_speechbrains_and_count_as_we_do(tokenizer, tmp_path):
    notes = noted(
        tokenizer,
        ("en", "the cat sat", "the dog sat down"),
        ("zh", "一 二", "一 三"),
        ("en", "", "x"),
        character_domains=["zh"],
    )
    write_alignments(notes, tmp_path / "test.json", ["zh"])
    rates = error_rates(notes)
    for rate, key in (("wer", "WER"), ("cer", "CER")):
        lines = (tmp_path / f"{rate}_test.txt").read_text("utf-8").splitlines()
        assert lines[0].startswith(f"%WER {rates[key]:.2f} [ ")
    text = (tmp_path / "wer_test.txt").read_text("utf-8")
    assert "[ 4 / 6, 2 ins, 0 del, 2 sub ]" in text.splitlines()[0]
    aligned = text[text.index("u0, %WER 66.67") :].splitlines()
    assert [line.split(" ; ") for line in aligned[1:4]] == [
        ["the", "cat", "sat", "<eps>"],
        [" = ", " S ", " = ", "  I  "],
        ["the", "dog", "sat", " down"],
    ]


def test_reference_and_hypothesis_have_the_same_spaces(tokenizer):
    (note,) = noted(tokenizer, ("en", " the\u00a0cat  sat", "the cat\u3000sat "))
    assert note["reference"] == note["hypothesis"] == "the cat sat"
    assert (note["word_errors"], note["words"]) == (0, 3)
    assert (note["char_errors"], note["chars"]) == (0, 11)


def test_error_rates_of_nothing_are_nan():
    assert all(math.isnan(rate) for rate in error_rates([]).values())


# --------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("unit", ["char", "unigram", "bpe"])
def test_tokenizer_round_trip(tmp_path, unit):
    tokenizer = train_tokenizer(TEXTS * 5, tmp_path / "model", unit, vocab_size=24)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids).strip() == text
        assert 0 not in ids and max(ids) < tokenizer.get_piece_size()
    if unit == "char":
        assert len(tokenizer.encode("the cat")) == 7
        # every character, space included, and <unk>
        assert tokenizer.get_piece_size() == len(set("".join(TEXTS))) + 1


def test_unseen_characters_are_unknown_units(tokenizer):
    ids = tokenizer.encode("the ẞat")
    assert 0 in ids and max(ids) < tokenizer.get_piece_size()
    assert tokenizer.decode([i for i in ids if i]).strip() == "the at"


@pytest.mark.parametrize("unit", ["char", "unigram"])
def test_a_text_that_supports_fewer_pieces_gets_fewer(tmp_path, unit):
    tokenizer = train_tokenizer(TEXTS, tmp_path / "model", unit, vocab_size=5000)
    assert 10 < tokenizer.get_piece_size() < 100


def test_a_tokenizer_is_trained_once(tmp_path):
    path = tmp_path / "new" / "model"
    first = train_tokenizer(iter([*TEXTS, "", None]), path)
    content = path.read_bytes()
    again = train_tokenizer(["the dog", "tea"], path)
    assert path.read_bytes() == content
    assert again.encode(TEXTS[0]) == first.encode(TEXTS[0])


def test_no_text_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="model: no transcripts"):
        train_tokenizer(["", ""], tmp_path / "model")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- transfer


def save(folder, name=None, **modules):
    return Path(Checkpointer(folder / "save", modules).save_checkpoint(name=name).path)


def test_the_newest_checkpoint_is_found(tmp_path):
    old = save(tmp_path, encoder=nn.Linear(2, 2))
    new = save(tmp_path, encoder=nn.Linear(2, 2))
    assert old != new
    for folder in (tmp_path, str(tmp_path), tmp_path / "save", new):
        assert find_checkpoint(folder) == new
    assert find_checkpoint(old) == old
    module = nn.Linear(2, 2)
    load_module(module, "encoder", tmp_path)
    theirs = torch.load(new / "encoder.ckpt")
    assert torch.equal(module.weight, theirs["weight"])
    assert torch.equal(module.bias, theirs["bias"])


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_checkpoint_is_named(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no checkpoint .*save.*phase") as error:
        load_module(nn.Linear(1, 1), "encoder", tmp_path / folder)
    assert str(tmp_path / folder) in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_without_the_module_is_named(tmp_path):
    save(tmp_path, quantizer=nn.Linear(1, 1))
    with pytest.raises(FileNotFoundError, match="encoder.ckpt: .* no module encoder"):
        load_module(nn.Linear(1, 1), "encoder", tmp_path)


def test_all_that_does_not_fit_is_named(tmp_path):
    theirs = nn.ModuleDict(
        {"a": nn.Linear(2, 3), "b": nn.Linear(1, 1), "c": nn.Linear(4, 4)}
    )
    ours = nn.ModuleDict(
        {"a": nn.Linear(5, 3), "c": nn.Linear(4, 4), "d": nn.Linear(1, 1)}
    )
    before = parameters(ours)
    save(tmp_path, encoder=theirs)
    with pytest.raises(ValueError) as error:
        load_module(ours, "encoder", tmp_path)
    message = str(error.value)
    assert "encoder.ckpt" in message
    assert "a.weight: (3, 2) in the checkpoint, (3, 5) here" in message
    for key in ("d.weight", "d.bias"):
        assert f"not in the checkpoint: {key}" in message
    for key in ("b.weight", "b.bias"):
        assert f"only in the checkpoint: {key}" in message
    assert "c." not in message and "a.bias" not in message
    assert torch.equal(parameters(ours), before)


def test_finetuning_starts_from_the_pretrained_encoder(ten, tmp_path):
    pretrained = settings(tmp_path)["modules"]["encoder"]
    with torch.no_grad():
        for p in pretrained.parameters():
            p.add_(0.01)
    expected = parameters(pretrained)
    save(tmp_path / "PTLOC.1", encoder=pretrained)
    hparams = settings(
        tmp_path / "run", pretrained=str(tmp_path / "PTLOC.1"), epochs=1, eval_splits=[]
    )
    hparams["freeze_encoder_iterations"] = math.inf
    assert finetune(hparams, RUN_OPTS, {"train": ten, "dev": ten}) == {}
    assert torch.equal(parameters(hparams["modules"]["encoder"]), expected)


def test_an_alphabet_gives_the_same_units_whatever_the_text(tmp_path):
    """The 43 outputs of the paper: <unk>, 41 characters, and the CTC blank."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789 '-.&"
    one, two = (
        train_tokenizer(texts, tmp_path / str(i), "char", alphabet=alphabet)
        for i, texts in enumerate((["a b"], ["some other text, é"]))
    )
    assert one.get_piece_size() + 1 == 43
    units = {one.id_to_piece(i) for i in range(42)}
    assert units == {"<unk>", *alphabet.replace(" ", "\u2581")}
    assert units < {two.id_to_piece(i) for i in range(two.get_piece_size())}
    assert one.decode(one.encode("it's 3 a.m.")) == "it's 3 a.m."
