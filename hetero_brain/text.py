"""Output units of speech recognition."""

import io
from pathlib import Path

import sentencepiece
from speechbrain.utils.distributed import run_on_main

from .checkpoints import write_atomically


def train_tokenizer(texts, model_file, unit="char", vocab_size=1000, alphabet=""):
    """Train SentencePiece on transcripts, or load what was trained before.

    Arguments
    ---------
    texts : iterable of str
        Training transcripts; empty ones are passed over.
    model_file : str or Path
        Where the model is kept.
    unit : str
        ``char``, or ``unigram`` or ``bpe`` with up to ``vocab_size`` pieces.
    vocab_size : int
        Most pieces; a text that supports fewer gets fewer.

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
        No text at all.
    """
    model_file = Path(model_file)

    def train():
        if model_file.exists():
            return
        words = [text for text in texts if text]
        if not words:
            raise ValueError(f"{model_file}: no transcripts to train a tokenizer on")
        words.append(alphabet)  # as a sentence: a character becomes a unit by occurring
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=model,
            model_type=unit,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            add_dummy_prefix=unit != "char",
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
        model_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(model_file, model.getvalue())

    run_on_main(train)
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))
