"""Pre-training of speech encoders on heterogeneous audio, with SpeechBrain.

``brain`` and ``bilevel`` are the algorithm, on the batches of ``domain_batch``.
``data`` brings corpora to it, ``models`` and ``objectives`` are what it trains, and
``training`` is what a run needs around it. ``recognition`` fine-tunes what it has
trained, and ``pipelines`` are what recipes call. ``commands`` are the command line.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

# Public name → the module that defines it. It is imported when the name is first used:
# importing torch takes seconds, and ``python -m hetero_brain --help`` does not need it.
_MODULES = {
    "DomainBatch": "domain_batch",
    "HeteroBrain": "brain",
    "Share": "domain_batch",
    "domain_loader": "data.domain_loader",
    "load_encoder": "models.speech_encoder",
    "local_lr_finder": "training.local_lr",
}


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__():
    return sorted({*globals(), *__all__})


__all__ = [
    "DomainBatch",
    "HeteroBrain",
    "Share",
    "domain_loader",
    "load_encoder",
    "local_lr_finder",
]
