"""The command line: each command's words, and what it calls with them.

A command is a module here, whose ``main`` takes the words after the command. Until these
have been read, nothing is imported that needs torch, which takes seconds: help comes at
once. ``over_recordings`` is what ``transcribe`` and ``features`` have in common.
"""

__all__ = [
    "compare",
    "experiment",
    "export",
    "features",
    "manifests",
    "over_recordings",
    "recipe",
    "report",
    "transcribe",
]
