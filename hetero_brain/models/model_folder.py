"""Model folders: a model that explains itself, for this package and for SpeechBrain.

``hyperparams.yaml`` describes the model in the layout of SpeechBrain's published models,
``<module>.ckpt`` are its weights, ``tokenizer.ckpt`` is SentencePiece's model, and
``README.md`` the model card. A folder may come from a stranger: nothing that it names is
run but what ``model_yaml`` allows, and weights are read as tensors alone.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch

from ..errors import InputError
from ..training.integrity import FILES, damage
from .model_yaml import read_description
from .recorded import Call, Ref
from .run_folder import (
    RUN_MODEL,
    choose_checkpoint,
    read_run,
    unless_deleted,
    warn_of_unfinished,
)
from .transfer import fit_state

DESCRIPTION, TOKENIZER = "hyperparams.yaml", "tokenizer.ckpt"
# What modules raise that are given impossible numbers.
OF_TORCH = (RuntimeError, ArithmeticError, AssertionError, LookupError)


@dataclass(frozen=True)
class Model:
    """A model on disk.

    Attributes
    ----------
    path : Path
        The folder that was asked for.
    values : dict
        Its description, from :func:`~hetero_brain.models.model_yaml.read_description`.
    weights : Path
        The folder of its weights, ``<module>.ckpt``.
    tokenizer_file : Path
        Of a recogniser.
    """

    path: Path
    values: dict
    weights: Path
    tokenizer_file: Path

    @property
    def sample_rate(self):
        """Of the waveforms that the features take, in Hz."""
        return self["sample_rate"]

    @property
    def kind(self):
        """``encoder``, ``ctc`` or ``attention``."""
        if "ctc" not in self.values:
            return "encoder"
        return "attention" if "decoder" in self.values else "ctc"

    def __getitem__(self, key):
        """A value of the description; InputError if it has none."""
        if key not in self.values:
            raise InputError(f"{self.path}: its description has no {key}")
        return self.values[key]

    def build(self, *keys):
        """Modules with their weights.

        Arguments
        ---------
        *keys : str
            ``features``, ``encoder``, and those of a recogniser that it has: ``readout``,
            ``ctc``, ``decoder``.

        Returns
        -------
        dict
            Key → module, on the CPU, in training mode.

        Raises
        ------
        InputError
            The folder is incomplete or damaged, or its description does not fit; names
            the file or key.
        """
        modules = {key: self._make(key) for key in keys}
        for key, module in modules.items():
            self.load(module, key)
        return modules

    def load(self, module, key):
        """Load the weights of a module, if it has any; see :meth:`build`."""
        if module.state_dict():
            with unless_deleted(self.weights):
                fit_state(module, key, inside(self.weights, f"{key}.ckpt"))

    def tokenizer(self):
        """The SentencePieceProcessor of a recogniser; see :meth:`build`."""
        path = inside(self.tokenizer_file.parent, self.tokenizer_file.name)
        try:
            return sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{path}: not a model of SentencePiece: {error}"
            ) from error

    def _make(self, key):
        call = self[key]
        if not isinstance(call, Call) or call.tag == "name":
            raise InputError(f"{self.path}: {key}: {call!r} is not a module")
        room, _, name = call.name.rpartition(".")
        try:
            arguments = {k: self._plain(v) for k, v in call.arguments.items()}
            if isinstance(arguments.get("source"), str):  # it would be downloaded
                raise ValueError("source: a name in place of the model's settings")
            made = getattr(importlib.import_module(room), name)(**arguments)
        except (AttributeError, TypeError, ValueError, *OF_TORCH) as error:
            raise InputError(f"{self.path}: {key}: {call.name}: {error}") from error
        if not isinstance(made, torch.nn.Module):
            raise InputError(f"{self.path}: {key}: {call.name} is not a module")
        return made

    def _plain(self, value):
        """An argument, a reference to a plain value resolved."""
        value = self[value.key] if isinstance(value, Ref) else value
        if isinstance(value, (Call, Ref)):
            raise InputError(f"{self.path}: {value}: modules take plain values here")
        return value


class Undescribed(InputError):
    """A folder has no description of its model."""


class OwnCode(Undescribed):
    """A run cannot describe its model, since only its own code can make it."""


def open_model(folder):
    """As :func:`find_model`, with a warning if the run that has the weights is still
    running, or was left unfinished."""
    model = find_model(folder)
    if model.weights.parent.name == "save" and model.weights != model.path:
        warn_of_unfinished(model.weights.parent.parent)
    return model


def find_model(folder):
    """Find a model without loading it.

    Arguments
    ---------
    folder : str or Path
        A model folder; or that of a phase or of a fine-tuning run, whose last checkpoint,
        or the best one by its error rate, has the weights; or its ``save`` folder, or a
        ``CKPT+…`` folder in that.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        There is no model, it is incomplete or damaged, or it names what it may not;
        Undescribed if there is no description.
    """
    folder = Path(folder)
    chosen = folder.name.startswith("CKPT+")
    run = folder.parent.parent if chosen else folder
    run = folder.parent if folder.name == "save" else run
    if (run / RUN_MODEL).exists():
        record = read_run(run)
        if not (run / "save").is_dir() and (run / "model").is_dir():
            return find_model(run / "model")  # its checkpoints were deleted
        if record["hyperparams"] is None:
            raise OwnCode(f"{run}: its modules can only be made by its own code")
        weights = folder if chosen else choose_checkpoint(run, record["score"])
        values = read_description(record["hyperparams"], run / RUN_MODEL)
        return Model(folder, values, weights, run / "tokenizer.model")
    if not (folder / DESCRIPTION).exists():
        raise Undescribed(missing(folder))
    if phases := [path.parent.name for path in sorted(folder.glob(f"*/{RUN_MODEL}"))]:
        raise InputError(f"{folder}: give one of its phases: {', '.join(phases)}")
    description = inside(folder, DESCRIPTION)
    try:
        text = description.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{description}: not UTF-8 text") from error
    values = read_description(text, description)
    refuse_paths(values.get("pretrainer"), description)
    if (folder / FILES).exists() and (fault := damage(folder)):
        raise InputError(f"{folder}: incomplete or damaged: {fault}; copy it again")
    return Model(folder, values, folder, folder / TOKENIZER)


def is_path(name):
    """Whether a name can only be a path, not a name on the Hugging Face Hub."""
    return str(name).startswith(("/", ".", "~"))


def missing(folder):
    """Why a folder has no model, in words."""
    if not folder.is_dir():
        debug = folder.parent / "debug" / folder.name
        hint = f"; that of a run with --debug is {debug}" if debug.is_dir() else ""
        return f"{folder}: there is no such folder{hint}"
    if any(folder.glob("CKPT+*")) or any(folder.glob("save/CKPT+*")):
        return (
            f"{folder}: its checkpoints are of a version that did not describe its "
            "models. Run once more the command that made it: what is finished is not "
            "trained again, and its description is added"
        )
    return (
        f"{folder}: no model: no {DESCRIPTION} in it, nor {RUN_MODEL}. Give a model "
        "folder, or that of a phase, such as results/pretrain/1/CSSL.1"
    )


def refuse_paths(pretrainer, path):
    """Raise an InputError if a ``Pretrainer`` takes files from elsewhere."""
    arguments = getattr(pretrainer, "arguments", {})
    if extra := {key: arguments[key] for key in arguments.keys() - {"loadables"}}:
        raise InputError(
            f"{path}: pretrainer: {extra}: weights are taken from the folder alone"
        )


def inside(folder, name):
    """The path of a file of a folder.

    Raises
    ------
    InputError
        It is missing, is not a file, or is a link that leads out of the folder.
    """
    path = folder / name
    if not path.is_file():
        raise InputError(f"{folder}: incomplete: {name} is missing")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path}: a link out of the folder, to {path.resolve()}; copy the folder "
            "with its files: cp -rL, or hf download --local-dir"
        )
    return path
