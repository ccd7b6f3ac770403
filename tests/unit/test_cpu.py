"""What a CPU does differently: without padding, and nothing else changes."""

from functools import partial

import pytest
import torch
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

from hetero_brain.models import cpu, layers
from hetero_brain.models.conformer import Conformer
from hetero_brain.models.cpu import Unpacked, pack, unpack
from hetero_brain.models.front_ends import Conv1dFrontEnd, ConvFrontEnd

LENGTHS = torch.tensor([3, 9, 1, 2, 8])
PADDING = ~length_to_mask(LENGTHS, 9, torch.bool)


def noise(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def conformer(front_end=nn.Linear, size=40, **options):
    torch.manual_seed(0)
    encoder = Conformer(front_end(size, 16), 2, 16, nhead=2, d_ffn=32, **options)
    return encoder.double()


def test_frames_of_all_utterances_come_one_after_the_other():
    x = noise(5, 9, 2)
    rows = pack(x, PADDING)
    assert torch.equal(rows, torch.cat([each[:n] for each, n in zip(x, LENGTHS)]))
    back = unpack(rows, PADDING)
    assert torch.equal(back, x.masked_fill(PADDING.unsqueeze(2), 0.0))


def test_packed_layers_are_unpacked_when_asked_for(monkeypatch):
    layers, calls = noise(3, 5, 9, 2).masked_fill(PADDING.unsqueeze(2), 0.0), []

    def counted(*args):
        calls.append(args)
        return unpack(*args)

    monkeypatch.setattr(cpu, "unpack", counted)
    found = Unpacked([pack(layer, PADDING) for layer in layers], PADDING)
    assert len(found) == 3 and not calls
    assert torch.equal(torch.stack(list(found)), layers)
    assert torch.equal(found[-1], layers[2])
    assert torch.equal(torch.stack(list(found[1:])), layers[1:])


@pytest.mark.parametrize("function", [pack, unpack])
def test_gradients_once_and_twice(function):
    x = noise(5, 9, 2) if function is pack else noise(int(LENGTHS.sum()), 2)
    inputs = x.requires_grad_(), PADDING
    assert torch.autograd.gradcheck(lambda *xs: function(*xs).sin(), inputs)
    assert torch.autograd.gradgradcheck(lambda *xs: function(*xs).sin(), inputs)


@pytest.mark.parametrize("front_end", [nn.Linear, ConvFrontEnd, Conv1dFrontEnd])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_an_encoder_gives_what_it_gives_with_padding(monkeypatch, front_end, causal, p):
    monkeypatch.setattr(cpu, "PIECE", 20)  # of two utterances
    if p:  # the same decisions for the same frames
        attention = layers.attention
        monkeypatch.setattr(layers, "dropout", lambda x, p, training: x * (1 - p))
        monkeypatch.setattr(
            layers, "attention", lambda *a: attention(*a[:4], 0.0, a[5]) * (1 - p)
        )
    size = 512 if front_end is Conv1dFrontEnd else 40
    encoder = conformer(front_end, size, dropout=p, causal=causal)
    found = []
    for whole in (False, True):  # as where the host would have to wait
        monkeypatch.setattr(torch.compiler, "is_compiling", partial(bool, whole))
        x = noise(5, 9, size).requires_grad_()
        out, hidden = encoder(x, LENGTHS)
        outs = [pack(layer, PADDING) for layer in (out, *hidden)]
        loss = sum(out.sin().sum() for out in outs)
        slopes = torch.autograd.grad(loss, [x, *encoder.parameters()])
        found.append([*outs, *slopes])
        if not whole:
            assert (out[PADDING] == 0).all() and all(
                h.shape == out.shape for h in hidden
            )
    assert len(found[0]) == 4 + 1 + len(list(encoder.parameters()))
    for ours, reference in zip(*found):
        torch.testing.assert_close(ours, reference)


def test_no_layer_but_attention_and_convolution_computes_padding():
    encoder, shapes = conformer(), set()

    def record(module, inputs, out):
        shapes.add(tuple(out.shape[:-1]))

    for module in encoder.blocks.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(record)
    encoder(noise(5, 9, 40), LENGTHS)
    assert shapes == {(int(LENGTHS.sum()),)}


def test_the_front_end_takes_utterances_of_like_length_together(monkeypatch):
    encoder, shapes = conformer(ConvFrontEnd), []
    encoder.front_end.register_forward_pre_hook(
        lambda module, inputs: shapes.append(tuple(inputs[0].shape[:2]))
    )
    monkeypatch.setattr(cpu, "PIECE", 20)
    encoder(noise(5, 9, 40), LENGTHS)
    assert shapes == [(2, 2), (2, 8), (1, 9)]
    shapes.clear()
    monkeypatch.setattr(cpu, "PIECE", 5)  # less than one utterance
    encoder(noise(5, 9, 40), LENGTHS)
    assert [n for _, n in shapes] == sorted(LENGTHS.tolist())


def test_no_look_at_lengths_on_other_devices():
    encoder = conformer().to("meta")  # where every look at a value is an error
    padding = torch.empty(5, dtype=torch.int64, device="meta")
    x = torch.empty(5, 9, 40, dtype=torch.float64, device="meta")
    out, hidden = encoder(x, padding)
    assert out.shape == (5, 9, 16) and len(hidden) == 3
