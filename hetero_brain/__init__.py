"""Pre-training of speech encoders on heterogeneous audio, with SpeechBrain.

``brain`` and ``bilevel`` are the algorithm, on the batches of ``domain_batch``.
``data`` brings corpora to it, ``models`` and ``objectives`` are what it trains, and
``training`` is what a run needs around it. ``recognition`` fine-tunes what it has
trained, and ``pipelines`` are what recipes call.
"""

from .brain import HeteroBrain
from .data.domain_loader import domain_loader
from .domain_batch import DomainBatch, Share

__all__ = ["DomainBatch", "HeteroBrain", "Share", "domain_loader"]
