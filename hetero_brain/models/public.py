"""Public checkpoints as encoders: wav2vec 2.0, HuBERT, WavLM, data2vec, w2v-BERT 2.0.

The features of ``public_features`` and this encoder take the places of ``features`` and
``Conformer``, so that objectives, recognisers and probes work with them unchanged.
"""

from contextlib import contextmanager
from pathlib import Path

import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from ..errors import InputError
from .layers import recompute
from .public_front_end import convolved
from .public_source import load_heads, load_model, published
from .recorded import Call


class PublicEncoder(nn.Module):
    """The encoder of a public checkpoint.

    Padding changes nothing: an utterance is encoded as if it were alone. For models whose
    configuration has ``feat_extract_norm: layer``, that is the attention mask, as their
    authors used it. Those with ``group``, such as wav2vec2-base, hubert-base and
    wavlm-base, were pre-trained on batches cut to one length, without padding or mask;
    their first convolution is normalised over time. Here this normalisation runs over an
    utterance's own frames, and the attention mask does the rest, so that an utterance in
    a batch has what those models give it alone. Positional convolutions of several layers
    (data2vec) or behind a batch normalisation (some HuBERT) are masked in between; batch
    normalisation keeps its published statistics.

    Attention is SDPA, but for WavLM, whose own code computes its weights.

    Arguments
    ---------
    source : str, Path or dict
        Hub name, local folder, or settings of a model with random weights; see
        :func:`~hetero_brain.models.public_source.published`.
    freeze_front_end : bool
        The convolutions from waveforms are not trained. w2v-BERT has none.
    dropout : float
        Probability, everywhere in the model; layer drop is off.
    recomputed : str
        What is not kept for the backward pass but run again there, to save memory:
        ``none``, or whole ``blocks``.
    front_end_gradient : float
        Factor on the gradient of the convolutions if they are trained (fairseq's
        ``feature_grad_mult``).

    Attributes
    ----------
    model : transformers.PreTrainedModel
        The bare model.
    d_model : int
        Dimension of the encodings.
    front_end_is_frozen : bool
        What :meth:`latents` returns does not depend on trained parameters.

    Raises
    ------
    InputError
        See :func:`~hetero_brain.models.public_source.load_model`; or an unknown part to
        recompute.
    """

    def __init__(
        self,
        source,
        freeze_front_end=True,
        dropout=0.0,
        recomputed="none",
        front_end_gradient=1.0,
    ):
        super().__init__()
        if recomputed not in ("none", "blocks"):
            raise InputError(f"recomputed: {recomputed}; choose none or blocks")
        self.checkpoint = published(source)
        self.dropout, self.recomputed = dropout, recomputed
        self.front_end_gradient = front_end_gradient
        self.d_model = self.checkpoint.config.hidden_size
        self.front_end_is_frozen = freeze_front_end or self.checkpoint.is_w2v_bert
        self.use(load_model(self.checkpoint, dropout))
        # A model folder has its settings, so that it needs neither hub nor source.
        arguments = {"source": self.checkpoint.settings(), "dropout": dropout}
        arguments |= {"freeze_front_end": freeze_front_end, "recomputed": recomputed}
        arguments |= {"front_end_gradient": front_end_gradient}
        self.made_by = Call("new", f"{__name__}.PublicEncoder", arguments)

    def use(self, model):
        """Take a model as the encoder, with what makes it one of here."""
        self.model = model
        if self.front_end_is_frozen and not self.checkpoint.is_w2v_bert:
            model.feature_extractor.requires_grad_(False)
        positions = getattr(model.encoder, "pos_conv_embed", None)
        for part in getattr(positions, "layers", []):
            part.register_forward_hook(keep_padding)
        if norm := getattr(positions, "batch_norm", None):
            norm.register_forward_hook(keep_padding)
        for block in model.encoder.layers if self.recomputed == "blocks" else []:
            recompute(block)

    def randomize(self):
        """Replace the weights by random ones, all of which are trained."""
        self.front_end_is_frozen = self.checkpoint.is_w2v_bert
        settings = published(self.checkpoint.settings())
        self.use(load_model(settings, self.dropout))

    @property
    def blocks(self):
        """What holds the blocks, as ``layers``."""
        return self.model.encoder

    def train(self, mode=True):
        """As PyTorch's, but batch normalisation stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    def forward(self, x, lengths, masked=None):
        """Encode.

        Arguments
        ---------
        x : torch.Tensor
            (batch, samples), or of w2v-BERT (batch, frames, features): from
            :func:`~hetero_brain.models.public_features.make_public_features`.
        lengths : torch.Tensor
            (batch,) in frames.
        masked : torch.Tensor
            (batch, frames) of bool: where the model's own embedding of masked frames
            takes the place of the latents; None for nowhere.

        Returns
        -------
        encoded : torch.Tensor
            (batch, frames, d_model). What is after the end of an utterance has no
            meaning.
        hidden : sequence of torch.Tensor
            Input of the first block and output of each block, same shape.

        Raises
        ------
        InputError
            Frames are masked; see :meth:`mask_embedding`.
        """
        return self.contexts(self.latents(x), lengths, masked)

    def latents(self, x):
        """What the convolutions make of waveforms: (batch, frames, channels).

        The log-mels of w2v-BERT are returned as they are.
        """
        if self.checkpoint.is_w2v_bert:
            return x
        trained = torch.is_grad_enabled() and not self.front_end_is_frozen
        with torch.set_grad_enabled(trained):
            x = convolved(self.model.feature_extractor.conv_layers, x).transpose(1, 2)
        if x.requires_grad and self.front_end_gradient != 1:
            x.register_hook(lambda grad: grad * self.front_end_gradient)
        return x

    def mask_embedding(self):
        """What takes the place of the projected latents of masked frames: (d_model,).

        Raises
        ------
        InputError
            The checkpoint has none.
        """
        embedding = getattr(self.model, "masked_spec_embed", None)
        if embedding is None:
            raise InputError(
                f"source: {self.checkpoint.source}: it has no embedding of masked frames "
                "(masked_spec_embed), like some fine-tuned models; take one as it was "
                "pre-trained, or mask none (mask_prob: 0)"
            )
        return embedding

    def normalized(self, latents):
        """The latents, layer-normalised: what wav2vec 2.0 quantizes."""
        return self.model.feature_projection.layer_norm(latents)

    def contexts(self, latents, lengths, masked=None):
        """The blocks on the latents; see :meth:`forward`."""
        x = self.model.feature_projection(latents)
        x = x[0] if isinstance(x, tuple) else x
        if masked is not None:
            x = torch.where(masked.unsqueeze(2), self.mask_embedding().to(x.dtype), x)
        inside = length_to_mask(lengths, x.shape[1], torch.bool)
        with layer_outputs(self.model.encoder.layers) as hidden:
            encoded = self.model.encoder(x, attention_mask=inside)[0]
        return encoded, hidden

    def save_pretrained(self, folder):
        """Write the model in the layout of Hugging Face, with the published
        configuration, for ``AutoModel.from_pretrained(folder)``.

        Arguments
        ---------
        folder : str or Path
            Made if it does not exist.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        config = self.checkpoint.config
        config.architectures = [type(self.model).__name__]
        config.save_pretrained(folder)
        self.checkpoint.extractor.save_pretrained(folder)


class PretrainingHeads(nn.Module):
    """The output layers that wav2vec 2.0 was pre-trained with.

    Arguments
    ---------
    source : str or Path
        Hub name or local folder of a checkpoint that was saved with them.

    Attributes
    ----------
    quantizer : torch.nn.Module
        Normalised latents → codes, and their perplexity.
    project_q, project_hid : torch.nn.Linear
        Of codes and of contexts, to where they are compared.
    config : transformers.PretrainedConfig
        Of the checkpoint, with what its authors set for the loss.

    Raises
    ------
    InputError
        See :func:`~hetero_brain.models.public_source.load_heads`.
    """

    def __init__(self, source):
        super().__init__()
        checkpoint = published(source)
        self.config = checkpoint.config
        for name, module in load_heads(checkpoint).items():
            self.add_module(name, module)


def keep_padding(module, inputs, output):
    """Hook of a module on (batch, channels, frames): where all channels were zero, as in
    padding, they stay so."""
    return output * (inputs[0] != 0).any(1, keepdim=True)


@contextmanager
def layer_outputs(layers):
    """A list that gets the input of the first layer and the output of each layer, in the
    passes within this context."""
    hidden = []

    def note(layer, inputs, output):
        if not hidden:
            hidden.append(inputs[0])
        hidden.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield hidden
    finally:
        for handle in handles:
            handle.remove()
