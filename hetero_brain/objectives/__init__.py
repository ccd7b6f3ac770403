"""Self-supervised objectives, each a small subclass of HeteroBrain.

``masked_prediction`` predicts the labels that one of the ``quantizers`` gives, of the
features or of other ``targets``, some of them by ``k_means``, to the frames that
``masking`` chose, with the loss of ``cross_entropy``; ``bestrq`` does so with a new
encoder. ``cpc`` tells the next frames of an utterance from others, by ``negatives``,
and ``wav2vec2`` its masked ones, by ``contrasts``. What is random of a batch is drawn
once (``prepared``), most of it by loader workers (``drawing``); ``public_passes`` has
what the passes on a public model share besides.
"""

__all__ = [
    "bestrq",
    "contrasts",
    "cpc",
    "cross_entropy",
    "drawing",
    "k_means",
    "masked_prediction",
    "masking",
    "negatives",
    "prepared",
    "public_passes",
    "quantizers",
    "targets",
    "wav2vec2",
]
