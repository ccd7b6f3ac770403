"""The models: what turns waveforms into features, encodings and words.

``features`` (of which ``frame_count`` counts the frames), ``front_ends``, ``conformer``
and ``readouts`` make an encoder, of which ``layers`` has the parts, and ``decoder`` is
what attention adds. ``operators`` chooses
between PyTorch's operators and those of ``cpu``.

What was trained is found by ``run_folder``, and loaded by ``transfer``. ``recorded``
modules know how they were made, ``model_yaml`` writes that down, and a ``model_folder``
has it beside the weights (``model_writing``). ``speech_encoder`` is what its user gets:
``load_encoder``. ``public`` and ``public_features`` make the same of a public checkpoint,
which ``public_source`` reads.
"""

__all__ = [
    "conformer",
    "cpu",
    "decoder",
    "features",
    "frame_count",
    "front_ends",
    "layers",
    "model_folder",
    "model_writing",
    "model_yaml",
    "operators",
    "precision",
    "public",
    "public_features",
    "public_front_end",
    "public_source",
    "readouts",
    "recorded",
    "run_folder",
    "speech_encoder",
    "transfer",
]
