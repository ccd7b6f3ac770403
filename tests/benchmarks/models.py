"""The models of the benchmarks: ours, and SpeechBrain's BEST-RQ as in its LibriSpeech
recipe."""

from functools import partial

import speechbrain as sb
import torch
import torch.nn.functional as F
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.BESTRQ import brq_mask_collate_fn
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer.TransformerASR import (
    EncoderWrapper,
    TransformerASR,
)
from speechbrain.nnet.linear import Linear
from speechbrain.nnet.quantisers import RandomProjectionQuantizer as SlowQuantizer
from speechbrain.processing.features import InputNormalization

from hetero_brain.models.conformer import SIZES, Conformer, make_head
from hetero_brain.models.features import StackedFbank
from hetero_brain.models.front_ends import ConvFrontEnd
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.quantizers import RandomProjectionQuantizer

from .speech import RATE

# SpeechBrain's recipes/LibriSpeech/self-supervised-learning/BEST-RQ/hparams/BEST-RQ.yaml.
RECIPE_SIZE = dict(num_layers=12, d_model=576, nhead=8, d_ffn=2048, kernel_size=31)
CODES, CODE_DIM, MASK_PROB, MASK_SPAN, DROPOUT = 8192, 16, 0.15, 4, 0.1
OPTIMIZER = partial(
    torch.optim.AdamW,
    lr=8e-4,
    betas=(0.9, 0.98),
    eps=1e-9,
    weight_decay=0.01,
    fused=True,
)


def size_of(name):
    """Width, depth etc. of one of our sizes, or of SpeechBrain's ``recipe``."""
    return {**SIZES, "recipe": RECIPE_SIZE}[name]


def ours(
    size,
    local_steps=0,
    dropout=0.0,
    codes=256,
    front_end="linear",
    precision="fp32",
    optimizer=OPTIMIZER,
    recomputed="none",
    cuda_graphs=False,
    **run_opts,
):
    """Our BEST-RQ Brain, ready for ``fit_batch``."""
    torch.manual_seed(0)
    size, features = size_of(size), StackedFbank(sample_rate=RATE)
    kinds = {"linear": torch.nn.Linear, "conv": ConvFrontEnd}
    front_end = kinds[front_end](features.output_size, size["d_model"])
    encoder = Conformer(front_end, dropout=dropout, recomputed=recomputed, **size)
    modules = {
        "features": features,
        "quantizer": RandomProjectionQuantizer(
            features.output_size, CODE_DIM, codebook_size=codes
        ),
        "encoder": encoder,
        "output": make_head(encoder, codes),
    }
    hparams = dict(seed=0, mask_prob=MASK_PROB, mask_span=MASK_SPAN, noise_std=0.1)
    hparams |= dict(max_grad_norm=10.0, local_steps=local_steps)
    hparams["cuda_graphs"] = cuda_graphs
    hparams["local_optimizer"] = partial(torch.optim.SGD, lr=0.03)
    run_opts = {"device": "cpu", "precision": precision, **run_opts}
    brain = BestRQBrain(modules, optimizer, hparams, run_opts)
    brain.on_fit_start()
    brain.modules.train()
    return brain


class SpeechBrainBestRQ(sb.Brain):
    """SpeechBrain's recipe, with the same steps in the same order: one mask per batch,
    and an output layer on all frames, of which only the masked ones are used."""

    def compute_forward(self, batch, stage):
        """Logits and labels of the masked frames."""
        wavs, wav_lens, mask = (t.to(self.device, non_blocking=True) for t in batch)
        x = self.hparams.compute_features(wavs)
        x = self.modules.normalize(x, wav_lens, epoch=1)
        x = F.pad(x, (0, 0, 0, -x.shape[1] % 4))
        masked = mask[::4] // 4
        labels = self.modules.quantizer(x.view(len(x), x.shape[1] // 4, -1)[:, masked])
        shape = len(x), len(mask), x.shape[2]
        x[:, mask] = torch.normal(0.0, 0.1, shape, device=x.device).to(x.dtype)
        encoded = self.modules.wrapper(self.modules.cnn(x), wav_lens)
        logits = self.modules.output(encoded)[:, masked]
        return logits.reshape(-1, CODES), labels.flatten()

    def compute_objectives(self, predictions, batch, stage):
        """Cross-entropy."""
        return F.cross_entropy(*predictions)


def speechbrain_bestrq(size, precision="fp32", device="cpu"):
    """SpeechBrain's BEST-RQ of a size, with the hyperparameters of its recipe."""
    torch.manual_seed(0)
    size = size_of(size)
    transformer = TransformerASR(
        input_size=640,
        tgt_vocab=2048,
        d_model=size["d_model"],
        nhead=size["nhead"],
        num_encoder_layers=size["num_layers"],
        num_decoder_layers=0,
        d_ffn=size["d_ffn"],
        kernel_size=size["kernel_size"],
        dropout=DROPOUT,
        activation=torch.nn.GELU,
        conformer_activation=torch.nn.GELU,
        encoder_module="conformer",
        attention_type="RelPosMHAXL",
        normalize_before=True,
        causal=False,
    )
    modules = {
        "cnn": ConvolutionFrontEnd(
            input_shape=(8, 10, 80),
            num_blocks=2,
            num_layers_per_block=1,
            out_channels=(128, 32),
            kernel_sizes=(3, 3),
            strides=(2, 2),
            residuals=(False, False),
        ),
        "wrapper": EncoderWrapper(transformer),
        "quantizer": SlowQuantizer(320, CODE_DIM, CODES),
        "normalize": InputNormalization(norm_type="sentence"),
        "output": Linear(input_size=size["d_model"], n_neurons=CODES),
    }
    features = Fbank(sample_rate=RATE, n_fft=256, n_mels=80).to(device)
    brain = SpeechBrainBestRQ(
        modules,
        OPTIMIZER,
        {"compute_features": features, "max_grad_norm": 10.0},
        {"device": device, "precision": precision},
    )
    brain.on_fit_start()
    brain.modules.train()
    return brain


def speechbrain_batch(batch):
    """One of our batches, collated as in SpeechBrain's recipe: signals, lengths, mask."""
    wavs, lengths = batch.sig
    samples = (lengths * wavs.shape[1]).round().long()
    examples = [{"id": i, "sig": wav[:n]} for i, wav, n in zip(batch.id, wavs, samples)]
    return brq_mask_collate_fn(
        examples,
        get_out_len_fn=lambda n: (n // (RATE // 100) + 1).long(),
        mask_prob=MASK_PROB,
        mask_length=MASK_SPAN,
        n_mels=80,
    )
