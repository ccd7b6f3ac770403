"""Small public models with random weights, saved to a folder as the hub has them."""

import torch
import transformers
from safetensors.torch import load_file, save_file

SIZE = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
)
CONVS = dict(conv_dim=[16] * 7, num_conv_pos_embedding_groups=2)
SMALL = {**SIZE, **CONVS, "num_conv_pos_embeddings": 16}
# Three convolutions, with the frame rate of the seven.
QUICK = dict(
    conv_dim=[16] * 3,
    conv_kernel=[10, 8, 4],
    conv_stride=[10, 8, 4],
    num_feat_extract_layers=3,
)
# Enough to learn something.
LARGER = dict(QUICK, conv_dim=[32] * 3, hidden_size=64, num_attention_heads=4)
LARGER["intermediate_size"] = 128
NO_DROPOUT = dict.fromkeys(
    "hidden_dropout attention_dropout activation_dropout feat_proj_dropout "
    "final_dropout layerdrop".split(),
    0.0,
)
# Kind → prefix of its classes in Transformers, and its configuration.
KINDS = {
    "wav2vec2": ("Wav2Vec2", SMALL),
    "xlsr": (
        "Wav2Vec2",
        {
            **SMALL,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "conv_bias": True,
        },
    ),
    "hubert": ("Hubert", SMALL),
    "hubert_batch_norm": ("Hubert", {**SMALL, "conv_pos_batch_norm": True}),
    "wavlm": ("WavLM", {**SMALL, "num_buckets": 32, "max_bucket_distance": 80}),
    "data2vec": (
        "Data2VecAudio",
        {**SIZE, **CONVS, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
    ),
    "w2v_bert": (
        "Wav2Vec2Bert",
        {
            **SIZE,
            "left_max_position_embeddings": 8,
            "right_max_position_embeddings": 4,
            "conv_depthwise_kernel_size": 5,
        },
    ),
}


def make_model(kind, saved_as="Model", **changed):
    """A model of Transformers; every weight is random, those of norms too."""
    prefix, settings = KINDS[kind]
    if saved_as != "Model":
        settings = {**settings, "vocab_size": 7, "codevector_dim": 8}
        settings |= {"num_codevectors_per_group": 5, "proj_codevector_dim": 8}
    config = getattr(transformers, f"{prefix}Config")(**{**settings, **changed})
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}{saved_as}")(config)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn_like(param))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


def extractor_of(kind, do_normalize=True):
    """What prepares the inputs of a model."""
    if kind == "w2v_bert":
        return transformers.SeamlessM4TFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize)


def save_model(model, kind, folder, do_normalize=True):
    """Save as the hub has it; return the folder as a string."""
    model.save_pretrained(folder)
    extractor_of(kind, do_normalize).save_pretrained(folder)
    return str(folder)


def save_small(kind, folder, saved_as="Model", **changed):
    """As :func:`save_model`, of a model that is made for it."""
    return save_model(make_model(kind, saved_as, **changed), kind, folder)


def change_tensors(folder, change):
    """Rewrite the tensors of a saved model: name → tensor, before and after."""
    path = f"{folder}/model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
