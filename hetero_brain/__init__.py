"""Pre-training of speech encoders on heterogeneous audio, with SpeechBrain."""

from .brain import DomainBatch, HeteroBrain

__all__ = ["DomainBatch", "HeteroBrain"]
