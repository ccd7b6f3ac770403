"""Speech recognition on a pre-trained encoder: CTC, and CTC with attention (``joint``).

``tokenizer`` defines the output units, ``spelling`` finds utterances with fewer frames
than CTC needs, ``search`` is the beam search of CTC with or without a language model,
``latent_masks`` are SpecAugment for public models, and ``encoder_rate`` gives the encoder
a learning rate of its own.
``error_rates`` computes CER and WER, and ``alignments`` shows each error. A
``recogniser`` is what fine-tuning leaves, and ``interfaces`` let SpeechBrain use it;
``transcription`` does so for recordings of any length, with ``timing`` and ``writers``.
"""

__all__ = [
    "alignments",
    "ctc",
    "encoder_rate",
    "error_rates",
    "interfaces",
    "joint",
    "latent_masks",
    "recogniser",
    "search",
    "spelling",
    "timing",
    "tokenizer",
    "transcription",
    "writers",
]
