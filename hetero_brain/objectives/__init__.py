"""Self-supervised objectives, each a small subclass of HeteroBrain.

``bestrq`` predicts the labels that one of the ``quantizers`` gives to the frames that
``masking`` chose, with the loss of ``cross_entropy``. ``cpc`` tells the next frames of an
utterance from others. Both draw what is random of a batch once, by ``prepared``.
"""

__all__ = [
    "bestrq",
    "cpc",
    "cross_entropy",
    "masking",
    "prepared",
    "quantizers",
]
