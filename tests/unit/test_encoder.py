"""Features and encoder: padding changes nothing, and each part equals its reference."""

import copy

import pytest
import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.features import Fbank
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hetero_brain.models.conformer import Conformer, make_encoder, make_head
from hetero_brain.models.features import StackedFbank, repeat_last
from hetero_brain.models.front_ends import ConvFrontEnd
from hetero_brain.models.readouts import LastLayer, WeightedLayers


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype
    )


def alone_and_padded(features, wav, others):
    """Features of an utterance by itself, and as the first of a batch."""
    alone, n = features(wav[None], torch.ones(1))
    wavs = torch.nn.utils.rnn.pad_sequence([wav, *others], batch_first=True)
    samples = torch.tensor([len(w) for w in (wav, *others)])
    padded, lengths = features(wavs, samples / wavs.shape[1])
    assert lengths[0] == n[0] == alone.shape[1]
    assert not padded[0, lengths[0] :].any()
    return alone[0], padded[0, : lengths[0]]


# ------------------------------------------------------------------------- features


@pytest.mark.parametrize("deltas", [False, True])
@pytest.mark.parametrize("stack", [2, 4])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_padding_changes_no_feature(rate, stack, deltas):
    features = StackedFbank(rate, n_mels=20, deltas=deltas, stack=stack)
    hop = rate // 100
    for samples in (5 * hop, 17 * hop - 1, 30 * hop + 1, 41 * hop + 37):
        wav = noise(samples, seed=samples)
        longer = noise(samples + 23 * hop + 11, seed=1) * 9
        alone, padded = alone_and_padded(features, wav, [longer])
        torch.testing.assert_close(padded, alone, rtol=0, atol=2e-4)


def test_padding_changes_no_feature_at_any_length():
    """Relative lengths are rounded: none must gain or lose a frame by it."""
    features = StackedFbank(8000, n_mels=8, deltas=False, stack=1)
    samples = torch.arange(400, 16000, 397)
    wavs = noise(len(samples), int(samples.max()))
    wavs *= length_to_mask(samples, wavs.shape[1], torch.bool)
    x, lengths = features(wavs, samples / wavs.shape[1])
    assert lengths.tolist() == [1 + n // 80 for n in samples.tolist()]
    for row, n, length in zip(range(len(samples)), samples, lengths):
        alone, _ = features(wavs[row : row + 1, :n], torch.ones(1))
        torch.testing.assert_close(x[row, :length], alone[0], rtol=0, atol=2e-4)


def test_padding_does_not_change_the_dynamic_range():
    """The floor of 80 dB under the loudest frame: here one behind the last."""
    features = StackedFbank(8000, n_mels=20, stack=1)
    wav = torch.zeros(80 * 40 + 79)
    wav[:800] = noise(800) * 1e-4
    wav[-1] = 1.0
    alone, padded = alone_and_padded(features, wav, [noise(8000)])
    torch.testing.assert_close(padded, alone, rtol=0, atol=2e-4)


@pytest.mark.parametrize("samples", [79, 80, 81, 8000, 8001, 12345])
@pytest.mark.parametrize("stack", [1, 2, 3, 4])
def test_feature_lengths(samples, stack):
    features = StackedFbank(8000, n_mels=10, stack=stack)
    x, lengths = features(noise(2, samples), torch.tensor([1.0, 1.0]))
    frames = 1 + samples // 80
    assert x.shape == (2, -(-frames // stack), 10 * stack)
    assert lengths.tolist() == [x.shape[1]] * 2


def test_a_stacked_frame_is_adjacent_frames():
    single = StackedFbank(8000, n_mels=10, stack=1)
    stacked = StackedFbank(8000, n_mels=10, stack=4)
    wav = noise(1, 8000)
    x, _ = single(wav, torch.ones(1))
    y, _ = stacked(wav, torch.ones(1))
    assert x.shape[1] == 101
    flat = y.reshape(1, -1, 10)
    assert torch.equal(flat[:, :101], x) and not flat[:, 101:].any()


def test_features_of_the_paper_are_240_dimensional():
    features = StackedFbank(16000, n_mels=40, deltas=True, stack=2)
    x, _ = features(noise(1, 16000), torch.ones(1))
    assert features.output_size == x.shape[2] == 240
    assert StackedFbank(8000, n_mels=80, stack=4).output_size == 320


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_every_rate_has_frames_of_10_ms(rate):
    x, lengths = StackedFbank(rate, n_mels=20, stack=1)(
        torch.rand(1, rate), torch.ones(1)
    )
    assert x.shape == (1, lengths[0], 20) and lengths[0] in (101, 102)
    assert x.isfinite().all()


def test_deltas_are_those_of_speechbrain():
    features = StackedFbank(16000, n_mels=40, deltas=True, stack=1)
    features.normalize.forward = lambda x, lengths: x
    wav = noise(1, 12345)
    x, _ = features(wav, torch.ones(1))
    reference = Fbank(deltas=True, sample_rate=16000, n_mels=40, n_fft=512)(wav)
    torch.testing.assert_close(x, reference, rtol=0, atol=1e-4)


def test_features_have_mean_0_and_variance_1_over_the_utterance():
    features = StackedFbank(8000, n_mels=10, stack=1)
    wavs = noise(2, 16000) * torch.linspace(0.1, 3, 16000)
    wavs[1, 5000:] = 0
    x, lengths = features(wavs, torch.tensor([1.0, 5000 / 16000]))
    for row, n in zip(x, lengths):
        torch.testing.assert_close(row[:n].mean(0), torch.zeros(10), rtol=0, atol=1e-4)
        torch.testing.assert_close(row[:n].std(0), torch.ones(10), rtol=0, atol=0.02)


def test_repeat_last():
    x = torch.arange(8.0).view(2, 4, 1)
    assert repeat_last(x, torch.tensor([4, 2])).flatten(1).tolist() == [
        [0, 1, 2, 3],
        [4, 5, 5, 5],
    ]


# ------------------------------------------------------------------ blocks and encoder


@pytest.mark.parametrize("front_end", [nn.Linear, ConvFrontEnd])
@pytest.mark.parametrize("content", ["zeros", "garbage"])
def test_padding_changes_no_encoder_frame(front_end, content):
    torch.manual_seed(0)
    encoder = Conformer(front_end(40, 16), 2, 16, nhead=2, d_ffn=32, kernel_size=7)
    encoder = encoder.double().eval()
    x = noise(3, 23, 40, dtype=torch.float64)
    lengths = torch.tensor([23, 11, 1])
    if content == "zeros":
        x = x * length_to_mask(lengths, 23, torch.bool).unsqueeze(2)
    with torch.no_grad():
        out, hidden = encoder(x, lengths)
        for i, n in enumerate(lengths):
            alone, alone_hidden = encoder(x[i : i + 1, :n], lengths[i : i + 1])
            torch.testing.assert_close(out[i, :n], alone[0], rtol=0, atol=1e-12)
            assert len(hidden) == len(alone_hidden) == 3
            for layer, reference in zip(hidden, alone_hidden):
                torch.testing.assert_close(
                    layer[i, :n], reference[0], rtol=0, atol=1e-12
                )


def test_every_frame_sees_the_whole_utterance():
    torch.manual_seed(0)
    encoder = Conformer(nn.Linear(4, 8), 1, 8, nhead=2, d_ffn=8, kernel_size=3)
    x = noise(1, 20, 4).requires_grad_()
    encoder.eval()(x, torch.tensor([20]))[0][0, 0, 0].backward()
    assert (x.grad[0].abs().sum(1) > 0).all()


def encoded(recomputed, precision=torch.float32, **options):
    """An encoder's output, in training, with what it depends on."""
    torch.manual_seed(0)
    encoder = Conformer(
        nn.Linear(4, 8), 2, 8, 2, 16, 5, recomputed=recomputed, **options
    )
    encoder = copy.deepcopy(encoder)  # which must not run the blocks of the first
    x, lengths = noise(3, 20, 4).requires_grad_(), torch.tensor([20, 9, 1])
    with torch.autocast("cpu", torch.bfloat16, precision == torch.bfloat16):
        out, hidden = encoder(x, lengths)
    return out, hidden, [x, *encoder.parameters()]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("recomputed", ["feed_forward", "blocks"])
def test_recomputed_parts_change_no_number(recomputed, causal, precision):
    found = []
    for kind in ("none", recomputed):
        out, hidden, leaves = encoded(kind, precision, dropout=0.3, causal=causal)
        torch.rand(7)  # others draw random numbers, too
        loss = sum(layer.float().square().sum() for layer in (out, *hidden))
        found.append([out, *hidden, *torch.autograd.grad(loss, leaves)])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("recomputed", ["feed_forward", "blocks"])
def test_recomputed_parts_can_be_differentiated_twice(recomputed):
    found = []
    for kind in ("none", recomputed):
        out, _, leaves = encoded(kind, dropout=0.3)
        with sdpa_kernel(SDPBackend.MATH):
            slope = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
            total = sum(s.square().sum() for s in slope)
            found.append(torch.autograd.grad(total, leaves))
    for ours, reference in zip(*found):
        torch.testing.assert_close(ours, reference)


def test_what_is_recomputed_is_not_kept():
    kept = []

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for kind in ("none", "feed_forward", "blocks"):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out, hidden, _ = encoded(kind, dropout=0.3)
        kept.append(sum(sizes.values()))
    # Inner activations in fp32 and what dropout left of them, in the two modules a block.
    inner = 2 * 2 * (20 + 9 + 1) * 16 * 4
    assert kept[0] - kept[1] >= 2 * inner
    assert kept[2] < kept[1] - 2 * inner


@pytest.mark.parametrize("n_mels", [40, 41, 80])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_conv_front_end_gives_one_output_a_stacked_frame(n_mels, frames):
    front_end = ConvFrontEnd(4 * n_mels, d_model=8, channels=4)
    assert front_end(noise(2, frames, 4 * n_mels)).shape == (2, frames, 8)


def test_conv_front_end_sees_nothing_behind_its_own_frames():
    front_end = ConvFrontEnd(80, d_model=8, channels=4)
    x = noise(1, 6, 80).requires_grad_()
    front_end(x)[0, 3].sum().backward()
    seen = x.grad[0].abs().sum(1) > 0
    assert seen.tolist() == [False, False, True, True, False, False]


# ---------------------------------------------------------------------- sizes, readouts


@pytest.mark.parametrize(
    "size, least, most",
    [("tiny", 2e6, 4e6), ("base", 22e6, 28e6), ("paper", 68e6, 72e6)],
)
@pytest.mark.parametrize("front_end", ["linear", "conv"])
def test_sizes(size, least, most, front_end):
    with torch.device("meta"):
        encoder = make_encoder(size, input_size=320, front_end=front_end)
    assert least < sum(p.numel() for p in encoder.parameters()) < most
    assert make_head(encoder, 7).weight.shape == (7, encoder.d_model)


def test_unknown_size_and_front_end_are_named():
    with pytest.raises(ValueError, match="huge.*tiny, base, paper"):
        make_encoder("huge", 320)
    with pytest.raises(ValueError, match="front_end: rnn.*linear, conv") as found:
        make_encoder("tiny", 320, front_end="rnn", recomputed="all")
    assert "recomputed: all; choose one of none, feed_forward, blocks" in str(
        found.value
    )
    assert "size" not in str(found.value)


def test_weighted_layers_is_the_weighted_mean_of_normalised_layers():
    readout = WeightedLayers(2)
    hidden = [noise(2, 5, 8, seed=s) * 10**s + s for s in range(3)]
    normalised = [
        (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True, correction=0)
        for h in hidden
    ]
    out = readout(None, hidden)
    torch.testing.assert_close(out, sum(normalised) / 3, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        readout.weights.copy_(torch.tensor([0.0, 0.0, 50.0]))
    torch.testing.assert_close(
        readout(None, hidden), normalised[2], rtol=1e-4, atol=1e-4
    )
    readout(None, hidden).square().sum().backward()
    assert readout.weights.grad.shape == (3,)


def test_last_layer_is_the_output_of_the_encoder():
    out = noise(1, 2, 3)
    assert LastLayer()(out, [out + 1]) is out
