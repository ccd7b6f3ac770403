"""Output units of speech recognition."""

import io
import unicodedata
from collections import Counter
from pathlib import Path

import sentencepiece
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from ..training.files import write_atomically

logger = get_logger(__name__)

SPACE = "\u2581"  # how SentencePiece writes the space
RESERVED = {"\0", SPACE, "\u2585"}  # characters that it keeps for itself
MAX_SHOWN = 20
CHUNK = 10_000  # texts that are encoded at a time


def train_tokenizer(texts, model_file, unit="char", vocab_size=1000, alphabet=""):
    """Train SentencePiece on transcripts, or load what was trained before.

    Text is encoded as it stands, without any normalisation: ``decode(encode(text))`` is
    ``text``. This is checked for all training transcripts, also with a model that was
    there before. Each character of the transcripts and of ``alphabet`` is a unit.

    Arguments
    ---------
    texts : iterable of str
        Training transcripts; empty ones are passed over.
    model_file : str or Path
        Where the model is kept.
    unit : str
        ``char``: all characters; ``unigram`` or ``bpe``: pieces of words.
    vocab_size : int
        Most pieces of ``unigram`` and ``bpe``, or the number of characters if that is
        larger, which is logged; a text that supports fewer gets fewer.
    alphabet : str
        Characters that are units even where the text has none of them, so that models
        for several corpora have the same outputs.

    Returns
    -------
    sentencepiece.SentencePieceProcessor
        Its ids are the output units; the CTC blank is one past the last.

    Raises
    ------
    ValueError
        No text at all; or texts that do not come back as they were, because of a
        character that SentencePiece reserves, or because the model that was there is
        for other texts or normalises them. Names the first of them.
    """
    model_file = Path(model_file)

    def train():
        words = [text for text in texts if text]
        if not words:
            raise ValueError(f"{model_file}: no transcripts to train a tokenizer on")
        if known := model_file.exists():
            model = model_file.read_bytes()
        else:
            model = fit(words, model_file, unit, vocab_size, alphabet)
        check_round_trip(model, [alphabet, *words], model_file)
        if not known:
            model_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(model_file, model)

    run_on_main(train)
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))


def fit(words, model_file, unit, vocab_size, alphabet):
    """The SentencePiece model of some transcripts.

    Arguments
    ---------
    words : list of str
        The transcripts, none of them empty.
    model_file : Path
        What messages call it.
    unit, vocab_size, alphabet
        As for :func:`train_tokenizer`.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        Naming the first transcripts with a reserved character.
    """
    if reserved := [text for text in [alphabet, *words] if RESERVED & {*text}]:
        names = ", ".join(sorted(map(_name, RESERVED)))
        raise ValueError(
            f"{model_file}: remove from the transcripts what SentencePiece keeps for "
            f"itself ({names}):{listed(map(repr, dict.fromkeys(reserved)))}"
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
            f"{model_file}: {needed} units in place of vocab_size: {vocab_size}, as each "
            "character of the transcripts is one, and the space and the unknown are. "
            "With so many characters, unit: char is the usual choice."
        )
    # SentencePiece takes characters, required ones first, until those taken make up 1 of
    # the text in float32, where 40 million characters hide a rare one. So all are
    # required but the most common, without which they never make up 1.
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
        # Longer ones, in bytes, would be left out; 10 is the least that it takes.
        max_sentence_length=max(10, max(len(text.encode()) for text in words)),
        unk_surface="\N{DOUBLE QUESTION MARK}",  # one character, and no end of a word
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def check_round_trip(model, texts, model_file):
    """Refuse a tokenizer that does not give texts back as they were.

    Arguments
    ---------
    model : bytes
        A SentencePiece model.
    texts : iterable of str
        What it has to spell.
    model_file : Path
        Where it is, or will be.

    Raises
    ------
    ValueError
        Naming the first texts, and what became of them.
    """
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [*dict.fromkeys(filter(None, texts))]
    changed = []
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        decoded = tokenizer.decode(tokenizer.encode(chunk))
        changed += [pair for pair in zip(chunk, decoded) if pair[0] != pair[1]]
    if changed:
        raise ValueError(
            f"{model_file} changes {len(changed)} of {len(texts)} transcripts of the "
            "training data; it was made for others, or by a version that normalised "
            "text. Remove it, with the checkpoints beside it, or give another "
            f"output_folder.{listed(f'{a!r} becomes {b!r}' for a, b in changed)}"
        )


def warn_of_unknown(tokenizer, texts, name):
    """Log the characters that are no units: no recogniser can write them.

    Arguments
    ---------
    tokenizer : sentencepiece.SentencePieceProcessor
        Of :func:`train_tokenizer`.
    texts : iterable of str
        Transcripts to evaluate on.
    name : str
        What messages call them.

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
            f"{name}: {len(unknown)} characters, {unknown.total()} of "
            f"{counts.total()} in all, are not in the training transcripts, so that "
            f"no recogniser can write them and each is an error:{shown}"
        )
    return unknown


def _name(character):
    """A character and its name in Unicode."""
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    return f"{character!r} {name}"


def listed(lines):
    """Lines of a message, the first 20 of them."""
    lines = [*lines]
    more = [f"and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:MAX_SHOWN], *more])
