"""The models: what turns waveforms into features, encodings and words.

``features``, ``front_ends``, ``conformer`` and ``readouts`` make an encoder, of which
``layers`` has the parts, and ``decoder`` is what attention adds. ``operators`` chooses
between PyTorch's operators and those of ``cpu``, and ``transfer`` loads what another run
has trained.
"""

__all__ = [
    "conformer",
    "cpu",
    "decoder",
    "features",
    "front_ends",
    "layers",
    "operators",
    "precision",
    "readouts",
    "transfer",
]
