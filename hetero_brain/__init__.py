"""Pre-training of speech encoders on heterogeneous audio, with SpeechBrain.

``brain`` and ``bilevel`` are the algorithm, on the batches of ``domain_batch``.
``data`` brings corpora to it, ``models`` and ``objectives`` are what it trains, and
``training`` is what a run needs around it. ``recognition`` fine-tunes what it has
trained, and ``pipelines`` are what recipes call.
"""

from .brain import HeteroBrain
from .domain_batch import DomainBatch, Share
from .training.local_lr import local_lr_finder

__all__ = ["DomainBatch", "HeteroBrain", "Share", "local_lr_finder"]
