"""The models: what turns waveforms into features, encodings and words.

``features``, ``front_ends``, ``conformer`` and ``readouts`` make an encoder, of which
``layers`` has the parts, and ``decoder`` is what attention adds. ``operators`` chooses
between PyTorch's operators and those of ``cpu``, and ``transfer`` loads what another run
has trained. ``public`` and ``public_features`` make the same of public checkpoints,
which ``public_source`` reads.
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
    "public",
    "public_features",
    "public_source",
    "readouts",
    "transfer",
]
