"""Output units of speech recognition."""

import io
import unicodedata
from collections import Counter
from pathlib import Path

import sentencepiece
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from ..errors import InputError
from ..training.files import write_atomically

logger = get_logger(__name__)

SPACE = "\u2581"  # how SentencePiece writes the space
RESERVED = {"\0", SPACE, "\u2585"}  # characters that SentencePiece reserves
WITHIN_WORDS = "'’ʼ-·"  # marks that are a part of words
MAX_SHOWN = 20
CHUNK = 10_000  # texts per call of the tokenizer


def train_tokenizer(texts, model_file, unit="char", vocab_size=1000, alphabet=""):
    """Train SentencePiece on transcripts, or load an existing model.

    Text is encoded without any normalisation: ``decode(encode(text))`` is ``text``. This
    is checked for all training transcripts, also for an existing model. Each character of
    the transcripts and of ``alphabet`` is a unit.

    Arguments
    ---------
    texts : iterable of str
        Training transcripts; empty ones are skipped.
    model_file : str or Path
        File of the model.
    unit : str
        ``char``: all characters; ``unigram`` or ``bpe``: pieces of words.
    vocab_size : int
        Maximum number of pieces of ``unigram`` and ``bpe``; raised to the number of
        characters if that is larger, with a warning. Short texts may give fewer pieces.
    alphabet : str
        Characters that are units even if the text does not contain them, so that models
        for several corpora have the same outputs.

    Returns
    -------
    sentencepiece.SentencePieceProcessor
        Its ids are the output units; the CTC blank is one past the last.

    Raises
    ------
    InputError
        There is no text; or texts change in encoding and decoding, because they contain a
        reserved character, or because an existing model was trained on other texts or
        normalises them. Names the first of them.
    """
    model_file = Path(model_file)

    def train():
        words = [text for text in texts if text]
        if not words:
            raise InputError(
                f"{model_file}: no transcripts to train a tokenizer on; the "
                "column wrd of the training manifest is empty"
            )
        if exists := model_file.exists():
            model = model_file.read_bytes()
        else:
            warn_of_marks(words)
            model = fit(words, model_file, unit, vocab_size, alphabet)
        check_round_trip(model, [alphabet, *words], model_file)
        if not exists:
            model_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(model_file, model)

    run_on_main(train)
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))


def warn_of_marks(texts):
    """Log what looks as if nobody had normalised the transcripts: punctuation, digits,
    and letters in both cases. A recogniser learns to write all of it."""
    characters = {*"".join(texts)}
    marks = [c for c in characters if unicodedata.category(c)[0] in "PSN"]
    marks = sorted({*marks} - {*WITHIN_WORDS})
    capitals = sorted(c for c in characters if c.lower() in characters - {c})
    if marks or capitals:
        found = [f"the characters {' '.join(marks)}"] * bool(marks)
        found += [f"both cases of {' '.join(capitals)}"] * bool(capitals)
        example = next(text for text in texts if {*text} & {*marks, *capitals})
        logger.warning(
            f"the transcripts have {' and '.join(found)}, as in {example!r}: the "
            "recogniser learns to write them; if it should not, normalise the column wrd"
        )


def fit(words, model_file, unit, vocab_size, alphabet):
    """Train a SentencePiece model on transcripts.

    Arguments
    ---------
    words : list of str
        The transcripts, none of them empty.
    model_file : Path
        Name of the model in messages.
    unit, vocab_size, alphabet
        As for :func:`train_tokenizer`.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        Names the first transcripts with a reserved character.
    """
    if reserved := [text for text in [alphabet, *words] if RESERVED & {*text}]:
        names = ", ".join(sorted(map(_name, RESERVED)))
        raise InputError(
            f"{model_file}: remove the characters that SentencePiece reserves ({names}) "
            f"from the transcripts:{listed(map(repr, dict.fromkeys(reserved)))}"
        )
    counts = Counter()
    for text in words:
        counts.update(text)
    counts.update([" "] * len(words) if unit != "char" else [])  # the dummy prefix
    (most_common, _), *_ = counts.most_common(1)
    characters = {*counts, *alphabet}
    needed = len(characters) + 1  # with the unknown unit
    if unit != "char" and needed > vocab_size:
        logger.warning(
            f"{model_file}: {needed} units instead of vocab_size: {vocab_size}, as each "
            "character of the transcripts is one, and so are space and unknown unit. "
            "With so many characters, unit: char is the usual choice."
        )
    # SentencePiece adds characters, required ones first, until their share of the text
    # reaches 1 in float32; in 40 million characters rounding gets there without a rare
    # one. So all are required except the most common, without which the share is below 1.
    required = "".join(sorted(characters - {most_common})).replace(" ", SPACE)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=model,
        model_type=unit,
        vocab_size=needed if unit == "char" else max(needed, vocab_size),
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars=required,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=unit != "char",
        # In bytes; longer texts would be skipped. SentencePiece requires at least 10.
        max_sentence_length=max(10, max(len(text.encode()) for text in words)),
        unk_surface="\N{DOUBLE QUESTION MARK}",  # one character without a space
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def check_round_trip(model, texts, model_file):
    """Refuse a tokenizer whose encoding and decoding changes a text.

    Arguments
    ---------
    model : bytes
        A SentencePiece model.
    texts : iterable of str
        Texts that it must reproduce.
    model_file : Path
        Its file, for messages.

    Raises
    ------
    InputError
        Names the first texts that change, and what they become.
    """
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [*dict.fromkeys(filter(None, texts))]
    changed = []
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        decoded = tokenizer.decode(tokenizer.encode(chunk))
        changed += [pair for pair in zip(chunk, decoded) if pair[0] != pair[1]]
    if changed:
        raise InputError(
            f"{model_file} changes {len(changed)} of {len(texts)} training transcripts; "
            "it was trained on other transcripts, or by a version that normalised "
            "text. Remove it together with the checkpoints beside it, or give another "
            f"output_folder.{listed(f'{a!r} becomes {b!r}' for a, b in changed)}"
        )


def warn_of_unknown(tokenizer, texts, name):
    """Log the characters that are not units: no recogniser can write them.

    Arguments
    ---------
    tokenizer : sentencepiece.SentencePieceProcessor
        From :func:`train_tokenizer`.
    texts : iterable of str
        Transcripts to evaluate on.
    name : str
        Name of the texts in messages.

    Returns
    -------
    Counter
        Character → how often it occurs.
    """
    pieces = map(tokenizer.id_to_piece, range(tokenizer.get_piece_size()))
    units = {piece.replace(SPACE, " ") for piece in pieces}
    counts = Counter()
    for text in texts:
        counts.update(text)
    unknown = Counter({c: n for c, n in counts.items() if c not in units})
    if unknown:
        shown = listed(f"{_name(c)}: {n} times" for c, n in unknown.most_common())
        logger.warning(
            f"{name}: {len(unknown)} different characters are not in the training "
            "transcripts, so that no recogniser can write them; each of their "
            f"{unknown.total()} occurrences among {counts.total()} characters is an "
            f"error:{shown}"
        )
    return unknown


def _name(character):
    """A character and its Unicode name."""
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    return f"{character!r} {name}"


def listed(lines):
    """The first 20 lines for a message, and how many more there are."""
    lines = [*lines]
    more = [f"and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:MAX_SHOWN], *more])
