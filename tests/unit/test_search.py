"""Beam search of CTC with an n-gram language model, and without one."""

import math
import sys

import pytest
import torch

from hetero_brain.errors import InputError
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.recognition.search import check_search, ctc_search
from hetero_brain.recognition.tokenizer import train_tokenizer

TEXTS = ["the cat sat", "the bat sat", "at the mat"]
ARPA = """\\data\\
ngram 1=7
ngram 2=3

\\1-grams:
-1.0\t<unk>\t0
-99\t<s>\t-0.5
-1.0\t</s>\t0
-1.0\tthe\t-0.5
-1.0\tcat\t-0.5
-1.0\tbat\t-0.5
-1.0\tsat\t-0.5

\\2-grams:
-0.1\tthe bat
-1.5\tthe cat
-0.3\tbat sat

\\end\\
"""


@pytest.fixture(scope="module", params=["char", "unigram"])
def tokenizer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "model"
    return train_tokenizer(TEXTS * 5, path, request.param, vocab_size=16)


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def heard(tokenizer, text, other, p_text):
    """Log-probabilities in which units of a text are likely, and where those of another
    text of as many units differ, theirs with 1 − p_text."""
    blank = tokenizer.get_piece_size()
    units, others = tokenizer.encode(text), tokenizer.encode(other)
    assert len(units) == len(others)
    probs = torch.full((1, 2 * len(units), blank + 1), 1e-4)
    probs[0, 1::2, blank] = 1.0
    for i, (unit, alternative) in enumerate(zip(units, others)):
        probs[0, 2 * i, alternative] = 1 - p_text
        probs[0, 2 * i, unit] = p_text if unit != alternative else 1.0
    return (probs / probs.sum(-1, keepdim=True)).log()


def text_of(search, log_probs):
    return search(log_probs, torch.ones(1))[0][0].text


def test_without_a_language_model_the_likeliest_text_wins(tokenizer):
    assert ctc_search(tokenizer, None) is None
    search = ctc_search(tokenizer, 8)
    log_probs = heard(tokenizer, "the cat sat", "the bat sat", 0.6)
    assert text_of(search, log_probs) == "the cat sat"
    hypothesis = search(log_probs, torch.ones(1))[0][0]
    assert hypothesis.score == pytest.approx(math.log(0.6), abs=0.05)


@pytest.mark.parametrize("suffix", [".arpa", ".bin"])
def test_a_language_model_decides_what_is_heard_badly(tokenizer, arpa, suffix):
    """It finds the bat 10^2.6 times as likely, and the ear the cat 1.5 or 999 times."""
    pytest.importorskip("kenlm")
    lm = arpa.rename(
        arpa.with_suffix(suffix)
    )  # KenLM looks into the file, not its name
    log_probs = heard(tokenizer, "the cat sat", "the bat sat", 0.6)
    assert text_of(ctc_search(tokenizer, 8, lm), log_probs) == "the bat sat"
    weak = ctc_search(tokenizer, 8, lm, lm_alpha=0.01)
    assert text_of(weak, log_probs) == "the cat sat"
    sure = heard(tokenizer, "the cat sat", "the bat sat", 0.999)
    assert text_of(ctc_search(tokenizer, 8, lm), sure) == "the cat sat"


def test_scores_of_a_language_model_are_weighted_as_documented(tokenizer, arpa):
    pytest.importorskip("kenlm")
    log_probs = heard(tokenizer, "the bat sat", "the cat sat", 0.9)
    search = ctc_search(tokenizer, 8, arpa, lm_alpha=0.7, lm_beta=1.1)
    hypothesis = search(log_probs, torch.ones(1))[0][0]
    # <s> the: backoff and unigram; the bat; bat sat.
    log10 = (-0.5 - 1.0) + -0.1 + -0.3
    expected = 0.7 * log10 * math.log(10) + 1.1 * 3
    assert hypothesis.lm_score - hypothesis.score == pytest.approx(expected, abs=1e-3)


def test_parts_of_words_cost_nothing_unless_no_word_begins_with_them(tokenizer, arpa):
    """In a binary no word can be looked up, so that no part of one may cost anything."""
    pytest.importorskip("kenlm")
    lm = ctc_search(tokenizer, 8, arpa).lm
    assert (lm.score_partial_token("ca"), lm.score_partial_token("co")) == (0, -10)
    binary = ctc_search(tokenizer, 8, arpa.rename(arpa.with_suffix(".bin"))).lm
    assert binary.score_partial_token("ca") == binary.score_partial_token("co") == 0


def test_a_file_that_is_no_language_model(tokenizer, tmp_path):
    pytest.importorskip("kenlm")
    for name in ("lm.arpa", "lm.bin"):
        (tmp_path / name).write_text("no model")
        with pytest.raises(
            InputError, match=f"{name} cannot be read as a language model"
        ):
            ctc_search(tokenizer, 8, tmp_path / name)


# ------------------------------------------------------------------- before a run begins


def test_a_missing_extra_is_named(tokenizer, arpa, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(InputError, match=r"kenlm.*pip install 'hetero_brain\[lm\]'"):
        ctc_search(tokenizer, 8, arpa)


@pytest.mark.parametrize(
    "beam_size, name, told",
    [(None, "words.arpa", "needs a beam search"), (8, "other.arpa", "no such file")],
)
def test_keys_that_do_not_go_together(arpa, tmp_path, beam_size, name, told):
    with pytest.raises(InputError, match=f"lm: .*{name}.* {told}"):
        check_search(beam_size, tmp_path / name)
    check_search(beam_size, None)


def test_a_run_is_refused_before_it_reads_its_data(tmp_path):
    hparams = {"output_folder": str(tmp_path), "sample_rate": 8000, "seed": 1}
    hparams |= {"loader": {}, "beam_size": None, "lm": "words.arpa"}
    with pytest.raises(InputError, match="lm: words.arpa needs a beam search"):
        finetune(hparams, {}, {})
