"""The parts of a training run around the algorithm; nothing here is specific to speech.

Checkpoints and their integrity, loggers, ranks, preemption, learning-rate schedules,
settings and seeds.
"""
