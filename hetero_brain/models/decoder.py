"""The attention decoder, on SpeechBrain's Transformer."""

import torch
from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.nnet.linear import Linear
from torch import nn

from .recorded import recorded


@recorded
class AttentionDecoder(nn.Module):
    """A Transformer decoder over what an encoder made, with embedding and output layer.

    Arguments
    ---------
    d_model : int
        Dimension of the encoder, and of the decoder.
    n_outputs : int
        Pieces and the three marks behind them.
    num_layers, nhead, d_ffn : int
        Blocks, attention heads, width of the feed-forward modules.
    dropout : float
        In the blocks.

    Example
    -------
    >>> decoder = AttentionDecoder(32, 13, num_layers=1, nhead=2, d_ffn=64)
    >>> encoded, lengths = torch.rand(2, 20, 32), torch.tensor([20, 15])
    >>> decoder(torch.randint(10, (2, 7)), encoded, lengths).shape
    torch.Size([2, 7, 13])
    """

    def __init__(
        self, d_model, n_outputs, num_layers=4, nhead=4, d_ffn=1024, dropout=0.1
    ):
        super().__init__()
        self.transformer = TransformerASR(
            n_outputs,
            d_model,
            d_model=d_model,
            nhead=nhead,
            num_encoder_layers=0,
            num_decoder_layers=num_layers,
            d_ffn=d_ffn,
            dropout=dropout,
            activation=nn.GELU,
            normalize_before=True,
            causal=False,
        )
        self.transformer.custom_src_module = nn.Identity()  # of its encoder: unused
        self.output = Linear(input_size=d_model, n_neurons=n_outputs)

    def forward(self, tokens, encoded, lengths):
        """Logits of the token behind each token (teacher forcing).

        Arguments
        ---------
        tokens : torch.Tensor
            (batch, tokens) of int64, with the beginning of the sentence in front. Padding
            may be any token: no token sees a later one.
        encoded : torch.Tensor
            (batch, frames, d_model).
        lengths : torch.Tensor
            (batch,) in frames.

        Returns
        -------
        torch.Tensor
            (batch, tokens, n_outputs).
        """
        frames = torch.arange(encoded.shape[1], device=encoded.device)
        embedded = self.transformer.custom_tgt_module(tokens)
        decoded, _, _ = self.transformer.decoder(
            embedded + self.transformer.positional_encoding(embedded),
            encoded,
            tgt_mask=get_lookahead_mask(tokens),
            memory_key_padding_mask=frames >= lengths.unsqueeze(1),
        )
        return self.output(decoded)
