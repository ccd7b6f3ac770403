"""Modules that remember how they were made, so that a model folder can say it."""

import inspect
from dataclasses import dataclass, field
from functools import wraps


@dataclass(frozen=True)
class Call:
    """A call in a model's description: HyperPyYAML's ``!new:``, ``!apply:``, ``!name:``.

    Attributes
    ----------
    tag : str
        ``new`` for a class, ``apply`` for a function, ``name`` for either, uncalled.
    name : str
        Dotted name of the class or function.
    arguments : dict
        Keyword → plain value, :class:`Ref`, Call, or a list or dict of them.
    """

    tag: str
    name: str
    arguments: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Ref:
    """A reference to another key of a model's description: HyperPyYAML's ``!ref``."""

    key: str


def recorded(maker):
    """Decorate a function or class that makes a module of plain values.

    The module has the call in its attribute ``made_by``, with every argument, so that a
    default that changes later does not change a model that was trained before.

    Arguments
    ---------
    maker : callable
        Makes an ``nn.Module`` from keyword or positional arguments without tensors or
        modules among them.

    Returns
    -------
    callable
        The function or class.
    """
    signature = inspect.signature(maker)
    is_class = inspect.isclass(maker)
    name = f"{maker.__module__}.{maker.__qualname__}"

    def record(module, args, kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        tag = "new" if is_class else "apply"
        module.made_by = Call(tag, name, dict(bound.arguments))
        return module

    if not is_class:
        return wraps(maker)(lambda *args, **kw: record(maker(*args, **kw), args, kw))
    make = maker.__init__

    @wraps(make)
    def __init__(self, *args, **kwargs):
        make(self, *args, **kwargs)
        record(self, args, kwargs)

    maker.__init__ = __init__
    return maker
