"""What turns waveforms into features, encodings and words.

``features``, ``front_ends``, ``conformer`` and ``readouts`` make an encoder, ``decoder``
is what attention adds, ``layers`` are the parts of a block, and ``transfer`` loads what
another run has trained.
"""
