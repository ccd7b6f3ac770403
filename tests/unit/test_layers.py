"""Each layer computes what SpeechBrain's or PyTorch's does, and why it is replaced."""

import pytest
import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.models.transformer.Conformer import (
    ConformerEncoderLayer,
    ConvolutionModule,
)
from speechbrain.nnet.attention import RoPEMHA
from torch import nn

from hetero_brain.models import cpu, operators
from hetero_brain.models.cpu import PaddedLinear
from hetero_brain.models.layers import (
    Dropout,
    FeedForward,
    Linear,
    MaskedConvolutionModule,
    RotarySelfAttention,
    adapt,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conformer_layer(dropout=0.0):
    torch.manual_seed(0)
    return ConformerEncoderLayer(
        d_ffn=24,
        nhead=2,
        d_model=12,
        kernel_size=5,
        dropout=dropout,
        attention_type="RoPEMHA",
    )


def test_an_adapted_layer_is_speechbrains():
    ours, theirs = conformer_layer(), conformer_layer()
    adapt(ours)
    kinds = {type(ours.mha_layer), type(ours.convolution_module)}
    kinds |= {type(ours.ffn_module1[1]), type(ours.ffn_module2[1])}
    assert kinds == {RotarySelfAttention, MaskedConvolutionModule, FeedForward}
    ours.load_state_dict(theirs.state_dict())  # the same names
    x, y = noise(3, 20, 12).requires_grad_(), noise(3, 20, 12).requires_grad_()
    out, reference = ours(x)[0], theirs(y)[0]
    torch.testing.assert_close(out, reference, rtol=1e-5, atol=1e-5)
    weights = noise(3, 20, 12, seed=1)
    (out * weights).sum().backward(), (reference * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_an_adapted_layer_keeps_every_dropout():
    theirs, ours = conformer_layer(0.3), conformer_layer(0.3)
    adapt(ours)

    def rates(layer):
        return {n: m.p for n, m in layer.named_modules() if isinstance(m, nn.Dropout)}

    assert rates(ours) == rates(theirs) and set(rates(ours).values()) == {0.3}
    assert {type(m) for m in ours.modules() if isinstance(m, nn.Dropout)} == {Dropout}
    assert ours.mha_layer.dropout == 0.3


# -------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
def test_dropout_zeroes_with_its_probability_and_keeps_the_mean(p):
    torch.manual_seed(0)
    n, calls = 100_003, 300  # not a multiple of eight
    layer, x, kept = Dropout(p), torch.full((n,), 2.0), torch.zeros(n)
    for _ in range(calls):
        out = layer(x)
        here = out != 0
        deviation = (p * (1 - p) / n) ** 0.5
        assert here.float().mean() == pytest.approx(1 - p, abs=1 / 256 + 4 * deviation)
        torch.testing.assert_close(out[here], torch.full_like(out[here], 2 / (1 - p)))
        kept += here
    # What p is in 256ths is rounded to one side in some calls, to the other in others.
    assert kept.mean() / calls == pytest.approx(1 - p, abs=4 / 512 / calls**0.5)


def test_decisions_of_dropout_do_not_hang_together():
    torch.manual_seed(0)
    kept = Dropout(0.5)(torch.ones(1_000_000)) != 0
    for i in range(8):  # those that share a random number
        assert kept[i::8].float().mean() == pytest.approx(0.5, abs=4e-3)
    for lag in (1, 2, 8):
        both = (kept[:-lag] & kept[lag:]).float().mean()
        assert both == pytest.approx(0.25, abs=4e-3)


def test_dropout_of_many_elements_draws_each_piece_anew():
    torch.manual_seed(0)
    out = Dropout(0.1)(torch.ones(3 * 2**18 + 5))
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.9]))
    *pieces, rest = (out != 0).split(2**18)
    assert len(pieces) == 3 and len(rest) == 5
    for piece, other in zip(pieces, [*pieces[1:], pieces[0]]):
        assert piece.float().mean().item() == pytest.approx(0.9, abs=0.005)
        assert (piece == other).float().mean().item() == pytest.approx(0.82, abs=0.01)


def test_dropout_can_be_differentiated_twice():
    x = noise(3, 4).double().requires_grad_()

    def squared(x):
        torch.manual_seed(1)
        return Dropout(0.5)(x).square()

    assert torch.autograd.gradcheck(squared, x)
    assert torch.autograd.gradgradcheck(squared, x)


def test_dropout_passes_the_gradient_of_what_it_kept():
    torch.manual_seed(0)
    x = noise(7, 5, 3).requires_grad_()
    out = Dropout(0.4)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out != 0) / 0.6)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_dropout_draws_from_the_generator_of_torch():
    layer, x = Dropout(0.5), torch.ones(1000)
    state = torch.get_rng_state()
    first, second = layer(x), layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dropout_keeps_the_dtype(dtype):
    assert Dropout(0.5)(torch.ones(8, dtype=dtype)).dtype == dtype


def test_no_dropout_outside_training_or_at_rate_zero():
    x = torch.ones(100)
    assert torch.equal(Dropout(0.9).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("p", [0.998, 1.0])
def test_dropout_of_nearly_all_and_of_all(p):
    torch.manual_seed(0)
    kept = Dropout(p)(torch.ones(1_000_000)) != 0
    assert kept.float().mean() == pytest.approx(1 - p, abs=5e-4)


# --------------------------------------------------------- attention and convolution


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_rotary_attention_is_speechbrains(padded, causal):
    torch.manual_seed(0)
    ours, theirs = RotarySelfAttention(24, 4, causal=causal), RoPEMHA(24, 4)
    ours.load_state_dict(theirs.state_dict())
    x = noise(3, 15, 24)
    valid = length_to_mask(torch.tensor([15, 9, 4]), 15, torch.bool)
    padding = ~valid if padded else None
    later = torch.ones(15, 15).triu(1).bool() if causal else None
    out, weights = ours(x, x, x, key_padding_mask=padding)
    reference, _ = theirs(x, x, x, key_padding_mask=padding, attn_mask=later)
    assert weights is None
    # What an utterance's padding attends to has no meaning.
    frames = valid if padded else torch.ones_like(valid)
    torch.testing.assert_close(out[frames], reference[frames], rtol=1e-5, atol=1e-6)


def test_rotary_attention_in_bf16_is_close():
    torch.manual_seed(0)
    attention = RotarySelfAttention(32, 4)
    x = noise(2, 40, 32)
    padding = ~length_to_mask(torch.tensor([40, 17]), 40, torch.bool)
    reference, _ = attention(x, key_padding_mask=padding)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = attention(x, key_padding_mask=padding)
    assert out.dtype == torch.bfloat16
    error = (out.float() - reference).square().mean().sqrt()
    assert 0 < error < 0.02 * reference.std()


def test_attention_on_a_gpu_is_not_cudnns(monkeypatch):
    """``operators.attention`` behind the choice of the CPU's."""
    allowed = []

    def attend(q, k, v, *args, **kwargs):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return v

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attend)
    operators.attention.__wrapped__(*noise(3, 1, 2, 4, 8))
    assert allowed == [False] and torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_a_gpu_has_heads_of_a_fast_size(monkeypatch, dtype, causal):
    """``operators.attention`` behind the choice of the CPU's."""
    q, k, v = (noise(3, 2, 2, 7, 36) / 6**0.5).requires_grad_()
    allowed = torch.rand(2, 1, 1, 7) < 0.7 if not causal else None
    options = dict(is_causal=causal, scale=1.0)
    attend = nn.functional.scaled_dot_product_attention
    reference = attend(q, k, v, allowed, **options)
    sizes = set()

    def recorded(q, k, v, *args, **kwargs):
        sizes.update(x.shape[-1] for x in (q, k, v))
        return attend(q, k, v, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", recorded)
    half = (x.to(dtype) for x in (q, k, v))
    out = operators.attention.__wrapped__(*half, allowed, 0.0, causal)
    assert sizes == {36 if dtype == torch.float32 else 40}
    exact = dtype == torch.float32
    assert out.dtype == dtype and out.shape == reference.shape
    tolerance = dict(rtol=0, atol=0) if exact else dict(rtol=0.05, atol=0.05)
    torch.testing.assert_close(out.float(), reference, **tolerance)
    grads = [torch.autograd.grad(x.float().sum(), v)[0] for x in (out, reference)]
    torch.testing.assert_close(*grads, **tolerance)


def test_attention_dropout_only_in_training():
    torch.manual_seed(0)
    attention = RotarySelfAttention(8, 2, dropout=0.5)
    x = noise(1, 10, 8)
    assert not torch.equal(attention(x)[0], attention(x)[0])
    attention.eval()
    assert torch.equal(attention(x)[0], attention(x)[0])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_dropout_is_its_mean_over_masks(causal):
    """Step by step it is SDPA, but for the weights that are zeroed."""
    torch.manual_seed(0)
    attention = RotarySelfAttention(8, 2, dropout=0.5, causal=causal)
    x, lengths = noise(2, 7, 8), torch.tensor([7, 4])
    masks = {"key_padding_mask": ~length_to_mask(lengths, 7, torch.bool)}
    with torch.no_grad():
        outs = torch.stack([attention(x, **masks)[0] for _ in range(3000)])
        expected, _ = attention.eval()(x, **masks)
    deviation = outs.std(0) / 3000**0.5
    assert ((outs.mean(0) - expected).abs() < 5 * deviation + 1e-6).all()
    assert deviation[0, -1].min() > 0


def test_attention_with_dropout_has_the_gradient_of_sdpa(monkeypatch):
    monkeypatch.setattr(cpu, "dropout", lambda x, p: x)
    torch.manual_seed(0)
    attention = RotarySelfAttention(8, 2, dropout=0.5)
    x = noise(2, 7, 8).requires_grad_()
    padding = ~length_to_mask(torch.tensor([7, 4]), 7, torch.bool)
    grads = []
    for p in (0.5, 0.0):  # step by step, and SDPA
        attention.dropout = p
        out, _ = attention(x, key_padding_mask=padding)
        inputs = [x, *attention.parameters()]
        grads.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def convolution_modules():
    torch.manual_seed(0)
    ours, theirs = MaskedConvolutionModule(12, 7), ConvolutionModule(12, 7)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_convolution_module_is_speechbrains_without_padding():
    ours, theirs = convolution_modules()
    x = noise(2, 20, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    mask = torch.zeros(2, 20, 1, dtype=torch.bool)
    torch.testing.assert_close(ours(x, mask), theirs(x, mask), rtol=1e-5, atol=1e-6)


def test_speechbrains_convolution_module_leaks_padding_and_ours_does_not():
    """Why it is replaced; once this fails, SpeechBrain's own can be used again."""
    ours, theirs = convolution_modules()
    x = noise(1, 20, 12)
    mask = ~length_to_mask(torch.tensor([13]), 20, torch.bool).unsqueeze(2)
    alone = ours(x[:, :13])
    torch.testing.assert_close(ours(x, mask)[:, :13], alone, rtol=0, atol=1e-6)
    leak = (theirs(x, mask)[:, :13] - alone).abs().amax(dim=(0, 2))
    assert leak[:10].max() < 1e-6  # within the kernel's reach of the end
    assert leak[10:].min() > 0.01


def test_convolution_under_bf16_is_in_fp32_on_a_cpu():
    """oneDNN's bf16 kernel never returns for 5 × 34 frames of 144 channels, 2 threads."""
    module, x = MaskedConvolutionModule(144, 15), noise(5, 34, 144)
    seen = []
    module.after_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x)
    assert seen[0].dtype == torch.float32 and out.dtype == torch.bfloat16
    error = (out.float() - module(x)).square().mean().sqrt()
    assert 0 < error < 0.02 * out.float().std()


# --------------------------------------------------------------------------- linear


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("shape", [(2, 5, 7), (64, 7), (1, 7), (9, 29, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_under_bf16_is_pytorchs(shape, bias):
    """Rows are padded to a multiple of 64 within, and nobody sees it."""
    torch.manual_seed(0)
    ours, theirs = Linear(7, 11, bias), nn.Linear(7, 11, bias)
    theirs.load_state_dict(ours.state_dict())
    x, y = noise(*shape).requires_grad_(), noise(*shape).requires_grad_()
    with autocast():
        out, reference = ours(x), theirs(y)
    assert out.dtype == reference.dtype == torch.bfloat16
    torch.testing.assert_close(out, reference)
    weights = noise(*out.shape, seed=1)
    (out.float() * weights).sum().backward()
    (reference.float() * weights).sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, y.grad, rtol=0.02, atol=0.02)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert a.grad.dtype == torch.float32
        torch.testing.assert_close(a.grad, b.grad, rtol=0.02, atol=0.1)


def test_products_under_bf16_have_few_shapes(monkeypatch):
    layer, shapes, pad = conformer_layer(), set(), PaddedLinear.pad
    adapt(layer)

    def noted(x):
        padded = pad(x)
        shapes.add(padded.shape)
        return padded

    monkeypatch.setattr(PaddedLinear, "pad", staticmethod(noted))
    for frames in range(20, 32):
        with autocast():
            layer(noise(4, frames, 12))[0].float().sum().backward()
    assert {rows for rows, _ in shapes} == {128}
    assert len(shapes) > 2  # several widths: every layer of the block goes through it


def test_linear_in_fp32_differentiates_twice():
    layer, x = Linear(3, 2), noise(5, 3)
    slope = torch.autograd.grad(
        layer(x).square().sum(), layer.weight, create_graph=True
    )[0]
    assert torch.autograd.grad(slope.sum(), layer.weight)[0].abs().sum() > 0
