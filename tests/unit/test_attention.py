"""Joint CTC/attention: loss against a plain reference, causal decoder, finite search."""

import json
import math
from functools import partial

import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.epoch_loop import EpochCounter

from hetero_brain.models.conformer import Conformer, make_head
from hetero_brain.models.decoder import AttentionDecoder
from hetero_brain.models.features import StackedFbank
from hetero_brain.models.readouts import LastLayer
from hetero_brain.pipelines.finetuning import finetune, recogniser
from hetero_brain.pipelines.pretrained import load_pretrained
from hetero_brain.recognition.error_rates import error_rates
from hetero_brain.recognition.joint import (
    BLANK,
    BOS,
    EOS,
    N_MARKS,
    JointBrain,
    joint_search,
)
from hetero_brain.recognition.tokenizer import train_tokenizer

RUN_OPTS = {"device": "cpu"}
TEXTS = ["a cat sat", "the dog", "cats"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS * 5, tmp_path_factory.mktemp("t") / "model", "char")


class Frames(torch.nn.Module):
    """Every 4 samples are one frame."""

    def forward(self, wavs, wav_lens):
        x = wavs.unflatten(1, (-1, 4))
        return x, (wav_lens * x.shape[1]).round().long()


class Encoder(torch.nn.Module):
    """One layer."""

    d_model = 16

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 16)

    def forward(self, x, lengths):
        return self.linear(x), []


def make(tokenizer, **hparams):
    torch.manual_seed(0)
    pieces, encoder = tokenizer.get_piece_size(), Encoder()
    modules = {
        "features": Frames(),
        "encoder": encoder,
        "readout": LastLayer(),
        "ctc": make_head(encoder, pieces + N_MARKS),
        "decoder": AttentionDecoder(16, pieces + N_MARKS, 2, 2, 32, dropout=0.0),
    }
    search = joint_search(modules, pieces, 3, ctc_weight=0.4, max_decode_ratio=0.5)
    hparams = {
        "tokenizer": tokenizer,
        "searches": {sb.Stage.TEST: search},
        "character_domains": (),
        "freeze_encoder_iterations": 0,
        "augment": None,
        "ctc_weight": 0.3,
        "label_smoothing": 0.1,
        **hparams,
    }
    return JointBrain(modules, partial(torch.optim.Adam, lr=1e-3), hparams, RUN_OPTS)


def batch_of(tokenizer, texts=TEXTS, frames=30):
    """Noise, each utterance 5 frames longer than the one before."""
    rng = torch.Generator().manual_seed(0)
    return PaddedBatch(
        [
            {
                "id": f"u{i}",
                "sig": torch.randn(4 * (frames + 5 * i), generator=rng),
                "domain": "en",
                "wrd": text,
                "tokens": torch.tensor(tokenizer.encode(text)),
            }
            for i, text in enumerate(texts)
        ]
    )


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_plain_lines(tokenizer, weight, smoothing):
    brain = make(tokenizer, ctc_weight=weight, label_smoothing=smoothing)
    batch, blank = batch_of(tokenizer), tokenizer.get_piece_size()
    predictions = brain.compute_forward(batch, sb.Stage.TRAIN)
    expected = 0
    for i, text in enumerate(TEXTS):  # one by one, without padding
        signal = batch.sig.data[i, : 4 * (30 + 5 * i)].view(1, -1, 4)
        encoded = brain.modules.encoder(signal, None)[0]
        length = torch.tensor([encoded.shape[1]])
        ids = tokenizer.encode(text)
        tokens = torch.tensor([[blank + BOS, *ids]])
        log_p = brain.modules.decoder(tokens, encoded, length).log_softmax(-1)[0]
        right = log_p[torch.arange(len(ids) + 1), torch.tensor([*ids, blank + EOS])]
        attention = (1 - smoothing) * -right.sum() - smoothing * log_p.mean(-1).sum()
        ctc = torch.nn.functional.ctc_loss(
            brain.modules.ctc(encoded).log_softmax(-1).transpose(0, 1),
            torch.tensor([ids]),
            length,
            torch.tensor([len(ids)]),
            blank + BLANK,
            "sum",
        )
        expected += ((1 - weight) * attention + weight * ctc) / len(TEXTS)
    loss = brain.compute_objectives(predictions, batch, sb.Stage.TRAIN)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_a_token_is_predicted_from_those_before_it(tokenizer):
    decoder, encoded = make(tokenizer).modules.decoder, torch.randn(1, 12, 16)
    tokens = torch.tensor([[3, 4, 5, 6]])
    later = torch.tensor([[3, 4, 7, 8]])
    a, b = (decoder(t, encoded, torch.tensor([12])) for t in (tokens, later))
    torch.testing.assert_close(a[:, :2], b[:, :2])
    assert not torch.allclose(a[:, 2:], b[:, 2:])


def test_frames_behind_the_end_are_not_attended(tokenizer):
    decoder, encoded = make(tokenizer).modules.decoder, torch.randn(1, 12, 16)
    changed = encoded.clone()
    changed[:, 8:] += 1
    tokens, length = torch.tensor([[3, 4]]), torch.tensor([8])
    a, b = decoder(tokens, encoded, length), decoder(tokens, changed, length)
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, decoder(tokens, changed, torch.tensor([12])))


@pytest.mark.parametrize("frames", [1, 7, 40])
def test_search_on_noise_ends(tokenizer, frames):
    """Without training, and even if the decoder never predicts the end of a sentence."""
    brain, pieces = make(tokenizer), tokenizer.get_piece_size()
    brain.modules.eval()
    with torch.no_grad():
        output = brain.modules.decoder.output.w
        output.bias[pieces + EOS] = -1e4
        steps, forward = [], brain.modules.decoder.transformer.decode
        brain.modules.decoder.transformer.decode = lambda *args: (
            steps.append(1) or forward(*args)
        )
        batch = batch_of(tokenizer, TEXTS, frames)
        predictions = brain.compute_forward(batch, sb.Stage.TEST)
        assert len(brain.decode(predictions, sb.Stage.TEST)) == len(TEXTS)
    assert 0 < len(steps) <= (frames + 5 * (len(TEXTS) - 1)) / 2  # of the longest


def test_marks_are_no_text(tokenizer):
    """A search that gives a mark among the pieces, as an untrained decoder may."""
    brain, pieces = make(tokenizer), tokenizer.get_piece_size()
    ids = [*tokenizer.encode("cat"), pieces + BOS, pieces + EOS]
    brain.hparams.searches[sb.Stage.TEST] = lambda *_: ([ids], None, None, None)
    log_probs = torch.full((1, 9, pieces + N_MARKS), -9.0)  # CTC gives one, too
    log_probs[0, torch.arange(9), torch.tensor([*ids, *[pieces] * (9 - len(ids))])] = 0
    predictions = (log_probs, torch.tensor([9]), torch.zeros(1, 9, 16), None)
    assert brain.decode(predictions, sb.Stage.TEST) == ["cat"]
    assert brain.decode(predictions, sb.Stage.VALID) == ["cat"]


def test_search_follows_both_scores(tokenizer):
    """With certain CTC scores and an uninformed decoder, the text is found."""
    brain, pieces = make(tokenizer), tokenizer.get_piece_size()
    path = [pieces]
    for i in tokenizer.encode("the cat"):
        path += [i, pieces]
    encoded = torch.zeros(1, len(path), 16)
    sure = torch.full((len(path), pieces + N_MARKS), -8.0)
    sure[torch.arange(len(path)), torch.tensor(path)] = 8.0
    modules = {
        "decoder": brain.modules.decoder,
        "ctc": lambda x: sure.expand(len(x), -1, -1),
    }
    with torch.no_grad():
        brain.modules.decoder.output.w.weight.zero_()
        for weight, found in ((0.9, True), (0.0, False)):
            search = joint_search(modules, pieces, 4, weight, max_decode_ratio=1.0)
            ids, *_ = search(encoded, torch.ones(1))
            assert (tokenizer.decode([*map(int, ids[0])]) == "the cat") == found


def recipe_settings(folder, **changed):
    """As a recipe's ``attention.yaml``, tiny."""
    torch.manual_seed(0)
    sizes = dict(d_model=48, nhead=4, d_ffn=96, kernel_size=7, dropout=0.0)
    encoder = Conformer(torch.nn.Linear(160, 48), 2, **sizes)
    decoder = partial(AttentionDecoder, num_layers=1, nhead=4, d_ffn=96, dropout=0.0)
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
        "decoder": decoder,
        "ctc_weight": 0.5,
        "label_smoothing": 0.0,
        "beam_size": 4,
        "max_decode_ratio": 0.8,
        "search_ctc_weight": 0.3,
        "epochs": 100,
        "opt_class": partial(torch.optim.AdamW, lr=4e-3),
        "sample_rate": 8000,
        "seed": 1,
        "loader": {},
        "eval_batch_seconds": 30,
        "eval_splits": ["dev"],
        "plan": {"global_batch_seconds": 6},
        "freeze_encoder_iterations": 0,
        "augment": None,
        "valid_interval": 100,
        **changed,
    }


def test_it_fits_six_utterances(sample, tmp_path, unplotted):
    train = sample("train", ["es"])
    order = train.duration.argsort()
    six = train.subset([i for i in order if " " in train[int(i)]["wrd"]][:6])
    rates = finetune(
        recipe_settings(tmp_path, epochs=70), RUN_OPTS, {"train": six, "dev": six}
    )
    assert rates["dev"]["CER"] == 0
    results = json.loads((tmp_path / "dev.json").read_text("utf-8"))
    assert {r["hypothesis"] for r in results} == {row["wrd"] for row in six}


def test_the_blank_and_the_marks_lie_behind_the_pieces(tokenizer, tmp_path):
    kind, modules, searches = recogniser(recipe_settings(tmp_path), tokenizer)
    pieces = tokenizer.get_piece_size()
    assert kind is JointBrain
    assert modules["ctc"].out_features == pieces + 3
    search = searches[sb.Stage.TEST]
    marks = [search.scorer.full_scorers["ctc"].blank_index]
    marks += [search.bos_index, search.eos_index]
    assert marks == [pieces, pieces + 1, pieces + 2]
    assert (search.beam_size, search.max_decode_ratio) == (4, 0.8)


def test_a_checkpoint_of_another_size_is_refused(tokenizer, tmp_path):
    from speechbrain.utils.checkpoints import Checkpointer

    other = Conformer(torch.nn.Linear(160, 32), 1, d_model=32, nhead=4, d_ffn=64)
    Checkpointer(tmp_path / "save", {"encoder": other}).save_checkpoint()
    with pytest.raises(ValueError, match="does not fit encoder"):
        recogniser(recipe_settings(tmp_path, pretrained=str(tmp_path)), tokenizer)


def test_what_was_loaded_new_and_left_is_said(tokenizer, tmp_path, caplog):
    from speechbrain.utils.checkpoints import Checkpointer

    settings = recipe_settings(tmp_path, pretrained=str(tmp_path))
    encoder = settings["modules"]["encoder"]
    saved = {"encoder": encoder, "output": make_head(encoder, 3)}
    Checkpointer(tmp_path / "save", saved).save_checkpoint()
    with caplog.at_level("INFO"):
        recogniser(settings, tokenizer)
    text = caplog.text
    assert "encoder: loaded" in text
    assert "new, with random weights: ctc, decoder, readout\n" in text
    assert "not used of" in text and text.rstrip().endswith(": output")


def test_nothing_is_said_of_what_there_is_not(tmp_path, caplog):
    from speechbrain.utils.checkpoints import Checkpointer

    modules = {"encoder": torch.nn.Linear(3, 3)}
    others = {"counter": EpochCounter(3), "optimizer": torch.nn.Linear(1, 1)}
    Checkpointer(tmp_path / "save", modules | others).save_checkpoint()
    with caplog.at_level("INFO"):
        load_pretrained(modules, tmp_path)
    assert "encoder: loaded" in caplog.text
    assert "new, with" not in caplog.text and "not used of" not in caplog.text


def test_a_language_without_spaces_is_scored_by_characters(tokenizer):
    brain = make(tokenizer, character_domains=["ja"])
    batch = batch_of(tokenizer, ["abc de", "abc de"])
    batch.domain[1] = "ja"
    brain.utterances = []
    brain.note_errors(batch, ["abd de", "abd de"])
    assert [u["words"] for u in brain.utterances] == [2, 6]
    assert [u["word_errors"] for u in brain.utterances] == [1, 1]
    assert error_rates(brain.utterances)["WER/ja"] == pytest.approx(100 / 6)
    assert math.isclose(error_rates(brain.utterances)["WER/en"], 50)
