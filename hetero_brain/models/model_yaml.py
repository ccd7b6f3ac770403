"""The description of a model as HyperPyYAML: written, and read without running code.

HyperPyYAML calls whatever a file names, of any package. What is read here may come from a
stranger: it is parsed into :class:`Call` objects, whose names must be in ``ALLOWED``, and
nothing is called.
"""

import re

import yaml

from ..errors import InputError
from ..training.settings import (
    BEAM_SIZE,
    COUNT,
    SHARE,
    is_count,
    is_number,
    is_positive,
    wrong_values,
)
from .recorded import Call, Ref

MODELS, RECOGNITION = "hetero_brain.models", "hetero_brain.recognition.interfaces"
# The only classes and functions that a description may name: they make modules of plain
# values, or are called by SpeechBrain's loaders alone.
ALLOWED = {
    f"{MODELS}.conformer.linear_head",
    f"{MODELS}.conformer.make_encoder",
    f"{MODELS}.decoder.AttentionDecoder",
    f"{MODELS}.features.make_features",
    f"{MODELS}.public.PublicEncoder",
    f"{MODELS}.public_features.make_public_features",
    f"{MODELS}.readouts.LastLayer",
    f"{MODELS}.readouts.WeightedLayers",
    f"{MODELS}.speech_encoder.Embeddings",
    f"{RECOGNITION}.BeamSearch",
    f"{RECOGNITION}.Encoded",
    f"{RECOGNITION}.JointSearch",
    f"{RECOGNITION}.Posteriors",
    f"{RECOGNITION}.greedy",
    "sentencepiece.SentencePieceProcessor",
    "speechbrain.dataio.preprocess.AudioNormalizer",
    "speechbrain.utils.parameter_transfer.Pretrainer",
}
FLAG = (None, lambda v: isinstance(v, bool), "True or False")
# What a description may hold of a key, whoever has written it: wherever it stands.
VALUES = {
    "beam_size": BEAM_SIZE,
    "blank_id": (None, is_count, "an integer ≥ 0"),
    "causal": FLAG,
    "ctc_weight": SHARE,
    "deltas": FLAG,
    "dropout": SHARE,
    "freeze_front_end": FLAG,
    "front_end_gradient": (None, lambda v: is_number(v, 0), "a number ≥ 0"),
    "max_decode_ratio": (None, is_positive, "a number above 0"),
    "search_ctc_weight": SHARE,
}
VALUES |= dict.fromkeys(
    "d_ffn d_model input_size n_mels n_outputs n_pieces nhead num_layers sample_rate "
    "stack".split(),
    COUNT,
)
CALL = re.compile(r"!(new|apply|name):(.*)")
REFERENCE = re.compile(r"<(\w+)>")
PLAIN = [
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")
]


def write_description(values, comments=None):
    """A description as text.

    Arguments
    ---------
    values : dict
        Key → plain value, :class:`Call`, :class:`Ref`, or a list or dict of them.
    comments : dict
        Key → comment on its line.

    Returns
    -------
    str
    """
    lines = []
    for key, value in values.items():
        first, *rest = _lines(key, value)
        comment = f"  # {comments[key]}" if key in (comments or {}) else ""
        lines += [first + comment, *rest]
    return "\n".join([*lines, ""])


def _lines(key, value):
    """The lines of a key and its value."""
    tag, children = "", value
    if isinstance(value, Call):
        tag, children = f" !{value.tag}:{value.name}", value.arguments
    elif isinstance(value, Ref):
        tag, children = f" !ref <{value.key}>", {}
    if not isinstance(children, dict):
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)
        return [f"{key}: {text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}"]
    lines = [line for item in children.items() for line in _lines(*item)]
    empty = "" if tag or lines else " {}"
    return [f"{key}:{tag}{empty}", *(f"    {line}" for line in lines)]


def read_description(text, path):
    """A description from text, without running any code that it names.

    Arguments
    ---------
    text : str
        HyperPyYAML.
    path : str or Path
        Its file, for messages.

    Returns
    -------
    dict
        As :func:`write_description` takes it.

    Raises
    ------
    InputError
        It is not YAML, or not a mapping; or names anything that is not in ``ALLOWED``, or
        has another tag: names the line. Or a value cannot be: names all such keys.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = _Reader(path).value(node) if node else None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{path}: a value contains itself") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a description of a model: not a mapping")
    if problems := [*_wrong(values)]:
        raise InputError("\n  ".join([f"{path}:", *problems]))
    return values


def _wrong(values, prefix=""):
    """A sentence for each value that cannot be, also of calls."""
    plain = {k: v for k, v in values.items() if not isinstance(v, (Call, Ref))}
    yield from (f"{prefix}{problem}" for problem in wrong_values(plain, VALUES))
    for key, value in values.items():
        if isinstance(value, Call):
            yield from _wrong(value.arguments, f"{prefix}{key}: ")


class _Reader:
    """Turns the nodes of a parsed YAML into values."""

    def __init__(self, path):
        self.path, self.known = path, {}

    def value(self, node):
        """The value of a node; an alias has that of its anchor."""
        if id(node) not in self.known:
            self.known[id(node)] = self._value(node)
        return self.known[id(node)]

    def _value(self, node):
        call, children = CALL.fullmatch(node.tag), node.value
        if call:
            if call[2] not in ALLOWED:
                raise self.refused(node)
            arguments = {} if isinstance(children, str) else self._children(node)
            if not isinstance(arguments, dict):
                raise self.refused(node, "its arguments need names")
            return Call(*call.groups(), arguments)
        if node.tag == "!ref":
            if not isinstance(children, str) or not REFERENCE.fullmatch(children):
                raise self.refused(node, "it is not a reference to a key")
            return Ref(children[1:-1])
        if node.tag in PLAIN and isinstance(children, str):
            try:
                return yaml.SafeLoader("").construct_object(node)
            except ValueError as error:  # such as !!int x
                raise self.refused(node, str(error)) from error
        if node.tag in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            return self._children(node)
        raise self.refused(node)

    def _children(self, node):
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child) for child in node.value]
        for key, _ in node.value:
            if key.tag != PLAIN[0]:
                raise self.refused(key, "keys are plain text")
        return {key.value: self.value(child) for key, child in node.value}

    def refused(self, node, reason="models may not name it, since it could run code"):
        line = node.start_mark.line + 1
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        return InputError(f"{self.path}: line {line}: {tag}: {reason}")
