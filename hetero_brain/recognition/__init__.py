"""Speech recognition on a pre-trained encoder: CTC, and CTC with attention (``joint``).

``tokenizer`` defines the output units, ``spelling`` finds utterances with fewer frames
than CTC needs, ``error_rates`` computes CER and WER. A ``recogniser`` is what fine-tuning
leaves, and ``interfaces`` let SpeechBrain use it.
"""

__all__ = [
    "ctc",
    "error_rates",
    "interfaces",
    "joint",
    "recogniser",
    "spelling",
    "tokenizer",
]
