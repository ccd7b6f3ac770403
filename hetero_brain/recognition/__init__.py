"""Speech recognition on a pre-trained encoder: CTC, and CTC with attention (``joint``).

``tokenizer`` makes the units, ``spelling`` finds the utterances that CTC cannot spell,
``error_rates`` counts.
"""
