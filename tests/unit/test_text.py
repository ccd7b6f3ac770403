"""Output units: decoding restores the text, and every character is a unit."""

import io
import random
import unicodedata

import pytest
import sentencepiece
import torch
from speechbrain.decoders.ctc import CTCBeamSearcher
from speechbrain.utils.edit_distance import wer_details_for_batch

from hetero_brain.data import manifest
from hetero_brain.recognition.tokenizer import (
    check_round_trip,
    train_tokenizer,
    warn_of_marks,
    warn_of_unknown,
)

UNITS = ["char", "unigram", "bpe"]
# Each has what NFKC would change: a ligature, a vowel sign, a presentation form, a
# digraph, a compatibility letter, a half-width form, a conjoined vowel.
CHANGED_BY_NFKC = {
    "Armenian": "ես և դու գնացինք այգի",
    "Thai": "น้ำทำอะไร",
    "Lao": "ນ້ຳຄຳ",
    "Arabic": "قال ﷲ ﻻ أعرف",
    "Croatian": "ǆep i ǉubav",
    "Dutch": "ĳs en vĳf",
    "Latin": "ﬁnal oﬃce ſtraſſe",
    "Korean": "ㅋㅋ ㅠㅠ",
    "Japanese": "ｱｲｳ ﾊﾟ",
    "Tibetan": "ཷ ཹ",
    "decomposed": "cafe\N{COMBINING ACUTE ACCENT} g\N{COMBINING TILDE}",
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("script", CHANGED_BY_NFKC)
def test_no_letter_is_changed(tmp_path, script, unit):
    text = CHANGED_BY_NFKC[script]
    assert unicodedata.normalize("NFKC", text) != text
    tokenizer = train_tokenizer([text], tmp_path / "model", unit)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    (details,) = wer_details_for_batch(
        ["0"], [list(text)], [list(tokenizer.decode(tokenizer.encode(text)))]
    )
    assert details["num_edits"] == 0  # of a recogniser that makes no error


@pytest.mark.parametrize("unit", UNITS)
def test_spaces_come_back_too(tmp_path, unit):
    texts = ["two  spaces", " in front", "behind ", "no\u00a0break", "wide\u3000one"]
    tokenizer = train_tokenizer(texts, tmp_path / "model", unit)
    assert tokenizer.decode(tokenizer.encode(texts)) == texts


@pytest.mark.parametrize("unit", UNITS)
def test_a_very_long_transcript_counts(tmp_path, unit):
    """By default SentencePiece skips sentences of more than 4192 bytes."""
    text = "ու " * 1000 + "ճ"
    tokenizer = train_tokenizer(["ու ու", text], tmp_path / "model", unit)
    assert tokenizer.unk_id() not in tokenizer.encode(text)


def test_a_character_that_occurs_once_in_a_large_corpus_is_a_unit(tmp_path):
    """Once in 36 million, where the others' coverage rounds to 1 in float32."""
    texts = ["a" * 4000] * 9000 + ["b"]
    tokenizer = train_tokenizer(texts, tmp_path / "model", "bpe")
    assert tokenizer.unk_id() not in tokenizer.encode("b")


# ---------------------------------------------------------------- number of the units


@pytest.fixture(scope="module")
def chinese():
    """1 000 sentences of 12 characters, of 1 500 that are not equally frequent."""
    rng = random.Random(0)
    characters = [chr(0x4E00 + i) for i in range(1500)]
    weights = [1 / (i + 10) for i in range(1500)]
    return ["".join(rng.choices(characters, weights, k=12)) for _ in range(1000)]


@pytest.mark.parametrize("unit", UNITS)
def test_every_character_is_a_unit_whatever_vocab_size(tmp_path, chinese, unit, caplog):
    tokenizer = train_tokenizer(chinese, tmp_path / "model", unit, vocab_size=1000)
    n = len(set("".join(chinese)))
    assert n > 1200
    assert not any(tokenizer.unk_id() in ids for ids in tokenizer.encode(chinese))
    # and <unk>, and the space that unigram and bpe put in front
    needed = n + (1 if unit == "char" else 2)
    assert tokenizer.get_piece_size() == needed
    warnings = [r.message for r in caplog.records if "vocab_size" in r.message]
    if unit == "char":
        assert not warnings
    else:
        (warning,) = warnings
        assert f"{needed} units instead of vocab_size: 1000" in warning


@pytest.mark.parametrize("unit", UNITS)
def test_an_alphabet_is_all_there(tmp_path, unit):
    """Also if it has more characters than ``vocab_size``, and the text has no others."""
    alphabet = "abcdefghijklmnopqrstuvwxyz '-.&\",=:և"
    tokenizer = train_tokenizer(["a b"], tmp_path / "model", unit, 20, alphabet)
    for character in alphabet:
        assert tokenizer.unk_id() not in tokenizer.encode(f"a{character}b")
    single = {tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())}
    assert single >= {*alphabet.replace(" ", "\u2581")}


@pytest.mark.parametrize("unit", ["unigram", "bpe"])
def test_an_alphabet_is_no_text_to_learn_from(tmp_path, unit):
    texts = ["the cat sat on the mat"] * 5
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    tokenizer = train_tokenizer(texts, tmp_path / "model", unit, 1000, alphabet)
    pieces = [tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())]
    assert not [p for p in pieces if len(p) > 1 and p in alphabet]


# -------------------------------------------------------------------- what is refused


def old_model(texts, unit="char"):
    """A model trained with SentencePiece's default normalisation."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type=unit,
        vocab_size=1000,
        hard_vocab_limit=False,
        character_coverage=1.0,
        add_dummy_prefix=unit != "char",
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.mark.parametrize("unit", UNITS)
def test_a_model_that_changes_letters_is_refused(tmp_path, unit):
    texts = ["ես և դու", "այգի"]
    path = tmp_path / "model"
    path.write_bytes(model := old_model(texts, unit))
    with pytest.raises(ValueError) as error:
        train_tokenizer(texts, path, unit)
    message = str(error.value)
    assert f"{path} changes 1 of " in message
    assert "'ես և դու' becomes 'ես եւ դու'" in message and "այգի" not in message
    assert "Remove it" in message
    assert path.read_bytes() == model


def test_a_model_for_other_texts_is_refused(tmp_path):
    train_tokenizer(["the cat"], tmp_path / "model")
    with pytest.raises(ValueError, match="1 of 2 (.*\n)*.*'a dog' becomes 'a ⁇'"):
        train_tokenizer(["the cat", "a dog"], tmp_path / "model")


def test_the_first_20_texts_that_change_are_named(tmp_path):
    texts = [f"{chr(0x61 + i)}ﬁ" for i in range(25)]
    model = old_model(texts)
    with pytest.raises(ValueError, match="changes 25 of 26 ") as error:
        check_round_trip(model, ["a", *texts, *texts], tmp_path / "model")
    assert str(error.value).count("becomes") == 20
    assert str(error.value).endswith("and 5 more")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("character", ["\u2581", "\u2585", "\0"])
def test_characters_that_sentencepiece_reserves_are_refused(tmp_path, character, unit):
    texts = ["the cat", f"a{character}b"]
    with pytest.raises(ValueError) as error:
        train_tokenizer(texts, tmp_path / "model", unit)
    assert repr(texts[1]) in str(error.value) and "the cat" not in str(error.value)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------- reference and hypothesis


def test_an_unknown_unit_is_one_character_of_its_word(tmp_path):
    tokenizer = train_tokenizer(["straße"], tmp_path / "model")
    assert tokenizer.decode(tokenizer.encode("straẞe")) == "stra⁇e"


def test_characters_that_no_recogniser_can_write_are_named(tmp_path, caplog):
    tokenizer = train_tokenizer(["the cat"], tmp_path / "model", "unigram")
    unknown = warn_of_unknown(tokenizer, ["the cätẞä", "tee"], "dev")
    assert unknown == {"ä": 2, "ẞ": 1}
    (message,) = [record.message for record in caplog.records]
    assert "dev: 2 different characters" in message
    assert "3 occurrences among 12 characters" in message
    assert "'ä' LATIN SMALL LETTER A WITH DIAERESIS: 2 times" in message
    caplog.clear()
    assert not warn_of_unknown(tokenizer, ["cat tea"], "dev") and not caplog.records


def test_transcripts_that_nobody_has_normalised_are_named(tmp_path, caplog):
    words = ["¿Qué? [bip]", "Don't drop-in", "no don't 2"]
    train_tokenizer(words, tmp_path / "marks", "char")
    (message,) = [record.message for record in caplog.records]
    assert (
        "have the characters 2 ? [ ] ¿ and both cases of D, as in '¿Qué? [bip]': the rec"
        in message
    )
    caplog.clear()
    for texts, said in (
        (["lé", "Élan", "él"], "have both cases of É, as in 'Élan': "),
        (["ab", "a.b"], "have the characters ., as in 'a.b': "),
    ):
        warn_of_marks(texts)
        assert said in caplog.messages.pop()
    warn_of_marks(["don't drop-in", "Ärger über"])  # German has its nouns
    assert len(caplog.records) == 2


def test_a_space_is_unknown_where_training_has_none(tmp_path):
    tokenizer = train_tokenizer(["今日は"], tmp_path / "model", "char")
    assert warn_of_unknown(tokenizer, ["今 日"], "dev") == {" ": 1}


@pytest.mark.parametrize("unit", UNITS)
def test_beam_search_writes_a_text_without_spaces(tmp_path, unit):
    text = "今日はいい天気"
    tokenizer = train_tokenizer([text], tmp_path / "model", unit)
    blank = tokenizer.get_piece_size()
    names = [*map(tokenizer.id_to_piece, range(blank)), ""]
    path = [x for i in tokenizer.encode(text) for x in (i, blank)]
    log_probs = torch.nn.functional.one_hot(torch.tensor([path]), blank + 1) * 9.0
    search = CTCBeamSearcher(blank, names, beam_size=4)
    ((best, *_),) = search(log_probs.log_softmax(-1), torch.ones(1))
    assert "".join(best.text.split()) == text


def test_a_manifest_has_one_space_between_words(tmp_path):
    written = ["  the\u00a0cat  sat\u3000down ", " \u3000", "", "a\tb"]
    rows = [
        {"ID": str(i), "duration": 1, "wav": "a.wav", "domain": "en", "wrd": words}
        for i, words in enumerate(written)
    ]
    manifest.write(tmp_path / "train.csv", rows)
    found = manifest.read(tmp_path / "train.csv", check_files=False)
    assert [row["wrd"] for row in found] == ["the cat sat down", "", "", "a b"]
