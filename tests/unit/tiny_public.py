"""Public models of a few thousand random weights, in the layout of Hugging Face."""

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
)

CONVOLUTIONS = dict(
    conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2
)
CODES = dict(codevector_dim=16, proj_codevector_dim=16, num_codevectors_per_group=20)
SIZES = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
)
NO_DROPOUT = dict(
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    final_dropout=0.0,
    layerdrop=0.0,
)


def save(folder, kind="wav2vec2", heads=True, seed=0, **changed):
    """Save a model with random weights; returns the folder.

    ``heads`` saves wav2vec 2.0 with the layers of its pre-training.
    """
    settings = SIZES | NO_DROPOUT | changed
    if kind == "wav2vec2-bert":
        extractor = SeamlessM4TFeatureExtractor()
    else:
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
        settings = CONVOLUTIONS | settings
    if kind == "wav2vec2":
        settings = CODES | settings
    config = AutoConfig.for_model(kind, **settings)
    torch.manual_seed(seed)
    with_heads = heads and kind == "wav2vec2"
    model = (
        Wav2Vec2ForPreTraining(config) if with_heads else AutoModel.from_config(config)
    )
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)
