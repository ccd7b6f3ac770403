"""Self-supervised objectives, each a small subclass of HeteroBrain."""
