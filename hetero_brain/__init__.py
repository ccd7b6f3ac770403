"""Pre-training of speech encoders on heterogeneous audio, with SpeechBrain."""

from .brain import HeteroBrain
from .domain_batch import DomainBatch

__all__ = ["DomainBatch", "HeteroBrain"]
