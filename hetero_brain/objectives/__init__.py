"""Self-supervised objectives, each a small HeteroBrain subclass."""
