"""Public checkpoints: what they say of themselves, and their weights, checked.

Transformers itself is used here, not ``speechbrain.integrations.huggingface``, which asks
the hub for a list of files even when they are in the cache, only logs a tensor that the
checkpoint lacks, and normalises waveforms over their padding.
"""

import copy
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from ..errors import InputError
from .model_folder import is_path

try:
    from huggingface_hub import constants
    from transformers import (
        AutoConfig,
        AutoModel,
        SeamlessM4TFeatureExtractor,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForPreTraining,
    )
except ImportError as missing:
    raise ImportError(
        "Public checkpoints need transformers: pip install 'hetero_brain[public]'"
    ) from missing

# Type of a model, as its configuration names it → what it is.
KINDS = {
    "wav2vec2": "wav2vec 2.0, XLSR, XLS-R, MMS",
    "hubert": "HuBERT",
    "wavlm": "WavLM",
    "data2vec-audio": "data2vec",
    "wav2vec2-bert": "w2v-BERT 2.0",
}
# Output layers that checkpoints hold beside the encoder.
PRETRAINING_HEADS = ("quantizer", "project_q", "project_hid")
HEADS = {*PRETRAINING_HEADS, "lm_head", "projector", "classifier", "layer_weights"}
HEADS |= {"final_proj", "label_embs_concat"}
MASK = "masked_spec_embed"


@dataclass(frozen=True)
class Published:
    """What a public checkpoint says of itself.

    Attributes
    ----------
    source : str or None
        Hub name or local folder; None if only the configuration was given.
    config : transformers.PretrainedConfig
        Of the model.
    extractor : transformers.FeatureExtractionMixin
        Of its inputs.
    """

    source: str | None
    config: object
    extractor: object

    @property
    def is_w2v_bert(self):
        """Whether the inputs are log-mels; they are waveforms otherwise."""
        return self.config.model_type == "wav2vec2-bert"

    def settings(self):
        """Plain values from which :func:`published` makes this again, without a source:
        the same model with random weights."""
        texts = (self.config.to_json_string(False), self.extractor.to_json_string())
        config, inputs = map(json.loads, texts)
        for labels in ("id2label", "label2id"):  # of classifiers
            config.pop(labels, None)
        return {"config": config, "inputs": inputs}


def published(source):
    """Read the configuration of a public checkpoint.

    Arguments
    ---------
    source : str, Path or dict
        Name on the Hugging Face Hub, such as ``facebook/wav2vec2-base``, or a local
        folder in its layout; or what :meth:`Published.settings` returned.

    Returns
    -------
    Published

    Raises
    ------
    InputError
        There is no such checkpoint, here or on the hub; it is incomplete; or it is of
        another kind than those in :data:`KINDS`.
    """
    if isinstance(source, dict):
        settings = source["config"]
        refuse_kind(settings["model_type"], "a model's settings")
        config = type(AutoConfig.for_model(settings["model_type"])).from_dict(settings)
        return Published(
            None, config, extractor_class(config).from_dict(source["inputs"])
        )
    source = str(source)
    if is_path(source) and not Path(source).is_dir():
        raise InputError(f"source: {source}: there is no such folder")
    with explained(source):
        config = main_first(source, AutoConfig.from_pretrained)
    refuse_kind(config.model_type, source)
    if getattr(config, "add_adapter", False):
        raise InputError(
            f"source: {source}: add_adapter is true in its configuration: its "
            "convolutions behind the encoder are not supported; take one without them"
        )
    with explained(source):
        extractor = main_first(source, extractor_class(config).from_pretrained)
    return Published(source, config, extractor)


def refuse_kind(model_type, source):
    """Raise an InputError for a type of model that is not in :data:`KINDS`."""
    if model_type not in KINDS:
        kinds = ", ".join(f"{kind} ({what})" for kind, what in KINDS.items())
        raise InputError(
            f"source: {source}: a model of type {model_type}; supported are {kinds}"
        )


def extractor_class(config):
    """The class that prepares the inputs of a model."""
    if config.model_type == "wav2vec2-bert":
        return SeamlessM4TFeatureExtractor
    return Wav2Vec2FeatureExtractor


def load_model(checkpoint, dropout=0.0):
    """The bare encoder of a public checkpoint, with its weights.

    Layer drop and the configuration's own SpecAugment are off.

    Arguments
    ---------
    checkpoint : Published
        With a source; the weights are random without one.
    dropout : float
        Probability, everywhere in the model.

    Returns
    -------
    transformers.PreTrainedModel
        In fp32, in training mode. Its ``masked_spec_embed`` is None if the checkpoint has
        none, as in some fine-tuned models; ``checkpoint.config`` then says so.

    Raises
    ------
    InputError
        There are no weights; or tensors of the encoder are missing in the checkpoint, or
        left over, or of another shape: all of them.
    """
    config = copy.deepcopy(checkpoint.config)
    config.layerdrop, config.apply_spec_augment = 0.0, False
    for name in config.to_dict():
        if name.endswith("dropout"):
            setattr(config, name, dropout)
    if checkpoint.source is None:
        # A stranger's settings may name a kernel on the hub, which would be run.
        config._attn_implementation = None
        return AutoModel.from_config(config, dtype=torch.float32).train()
    config.mask_time_prob = config.mask_time_prob or 0.05  # or it has no mask embedding
    model, missing, left = weights(AutoModel, checkpoint.source, config)
    if MASK in missing:
        model.register_parameter(MASK, None)
        checkpoint.config.mask_time_prob = checkpoint.config.mask_feature_prob = 0.0
    else:
        checkpoint.config.mask_time_prob = config.mask_time_prob
    faults = [f"not in the checkpoint: {name}" for name in missing if name != MASK]
    faults += [f"only in the checkpoint: {name}" for name in left]
    if faults:
        raise InputError(
            f"source: {checkpoint.source}: its tensors are not those of a "
            f"{type(model).__name__} with its config.json:\n  " + "\n  ".join(faults)
        )
    return model.train()


def load_heads(checkpoint):
    """The output layers that wav2vec 2.0 was pre-trained with.

    Arguments
    ---------
    checkpoint : Published
        With a source.

    Returns
    -------
    dict
        ``quantizer``, ``project_q`` and ``project_hid`` → module with its weights.

    Raises
    ------
    InputError
        Another kind of model; or the checkpoint lacks such layers, or the embedding of
        masked frames: names them.
    """
    source, kind = checkpoint.source, checkpoint.config.model_type
    remedy = (
        "Take a checkpoint as it was pre-trained, such as facebook/wav2vec2-base, or "
        "pre-train by masked prediction, which needs no output layers."
    )
    if kind != "wav2vec2":
        raise InputError(
            f"source: {source}: {KINDS[kind]} has no quantizer and no projections for "
            f"the contrastive loss of wav2vec 2.0. {remedy}"
        )
    config = copy.deepcopy(checkpoint.config)
    config.mask_time_prob = config.mask_time_prob or 0.05
    model, missing, _ = weights(Wav2Vec2ForPreTraining, source, config)
    needed = (*PRETRAINING_HEADS, MASK)
    lacking = [name for name in missing if set(name.split(".")) & {*needed}]
    if lacking:
        raise InputError(
            f"source: {source}: the checkpoint was not saved with the output layers of "
            f"wav2vec 2.0's pre-training; it lacks {', '.join(lacking)}. {remedy}"
        )
    return {name: getattr(model, name) for name in PRETRAINING_HEADS}


def weights(model_class, source, config):
    """A model with the weights of a checkpoint, and which tensors do not fit.

    Returns
    -------
    model : transformers.PreTrainedModel
    missing, left : list of str
        Tensors of the model that the checkpoint lacks; and those of the checkpoint that
        neither the model has nor output layers.

    Raises
    ------
    InputError
        There are no weights, or some of another shape.
    """
    with explained(source):
        model, info = main_first(
            source,
            model_class.from_pretrained,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
        )
    prefix = f"{model.base_model_prefix}."
    left = [name.removeprefix(prefix) for name in info["unexpected_keys"]]
    left = [name for name in left if name.split(".")[0] not in HEADS]
    return model, sorted(info["missing_keys"]), sorted(left)


def main_first(source, load, **kwargs):
    """``load(source, **kwargs)``, of a hub name on the main process first, so that ranks
    do not download at once.

    Before there is a process group, as when a YAML is read, the hub's client sees to it:
    it locks each file while it downloads.
    """
    if Path(source).is_dir():
        return load(source, **kwargs)
    try:
        result = load(source, **kwargs) if if_main_process() else None
    finally:
        ddp_barrier()  # after an error as well: the others then find it for themselves
    return result if if_main_process() else load(source, **kwargs)


@contextmanager
def explained(source):
    """Turn an error of Transformers into one that says where it looked and what to do.

    Raises
    ------
    InputError
        Instead of an OSError, ValueError or RuntimeError.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if Path(source).is_dir():
            raise InputError(
                f"source: {source}: not a whole model: {reason}"
            ) from error
        raise InputError(
            f"source: {source}: no such local folder, and not available from the Hugging "
            f"Face Hub (offline: {constants.HF_HUB_OFFLINE}, by HF_HUB_OFFLINE) or from "
            f"its cache {constants.HF_HUB_CACHE} (by HF_HOME): {reason}\n"
            "Check the name; or, where there is a network, run `hf download "
            f"{source} --local-dir FOLDER`, copy that folder here, and give it as source."
        ) from error
