"""Pre-training of speech encoders on heterogeneous audio, with SpeechBrain."""

from .brain import DomainBatch, HeteroBrain

__version__ = "0.1.0"
__all__ = ["DomainBatch", "HeteroBrain"]
