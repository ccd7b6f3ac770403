"""What surrounds the algorithm in a run: nothing here knows speech.

Checkpoints and how they are kept whole, logs, ranks, preemption, learning rates, settings
and seeds.
"""
