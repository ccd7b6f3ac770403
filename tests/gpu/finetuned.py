"""Fine-tuning a mini recogniser on a few utterances, and what it recognises."""

import tempfile
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch

from hetero_brain import DomainBatch
from hetero_brain.data import manifest
from hetero_brain.data.datasets import Utterances
from hetero_brain.models.conformer import Conformer
from hetero_brain.models.decoder import AttentionDecoder
from hetero_brain.models.features import StackedFbank
from hetero_brain.models.layers import Linear
from hetero_brain.models.readouts import LastLayer
from hetero_brain.pipelines.finetuning import recogniser
from hetero_brain.recognition.tokenizer import train_tokenizer
from tests.benchmarks.speech import RATE, utterances

from .mini import MINI, relative_error
from .verdicts import Finding, at_most

COUNT = 4  # utterances
ITERATIONS, CPU_ITERATIONS = 40, 20  # enough to spell something
SEARCHES = {"greedy": sb.Stage.VALID, "beam search": sb.Stage.TEST}


def finetuned(device, joint):
    """Findings about losses and texts, with CTC alone or also with attention."""
    rows = labelled()
    with tempfile.TemporaryDirectory() as folder:
        texts = (row["wrd"] for row in rows)
        tokenizer = train_tokenizer(texts, Path(folder) / "tokenizer.model")
    speech = Utterances(rows, RATE, tokenizer.encode)
    reference = recognition_brain("cpu", joint, tokenizer)
    expected = reference.fit_batch(one_domain(speech)).item()
    brain, parts = recognition_brain(device, joint, tokenizer), one_domain(speech)
    iterations = CPU_ITERATIONS if device == "cpu" else ITERATIONS
    losses = [brain.fit_batch(parts).item() for _ in range(iterations)]
    error = relative_error(losses[0], expected)
    yield at_most("first loss, relative error", error, 1e-3)
    text, falls = f"{losses[0]:.3g} → {losses[-1]:.3g}", losses[-1] < losses[0] / 2
    yield Finding(f"loss in {iterations} iterations", "halved", text, falls)
    for name, stage in SEARCHES.items():
        found = recognised(brain, parts, stage)
        right = len(found) == COUNT and all(text.strip() for text, _ in found)
        errors = sum(errors for _, errors in found)
        text = f"{found[0][0]!r} …; {errors} wrong characters"
        yield Finding(name, f"{COUNT} texts", text, right)


def labelled():
    """The shortest utterances of several words, in one language."""
    rows = utterances().manifest
    rows = manifest.read(rows.path, rows.data_root, ["es"])
    order = sorted(range(len(rows)), key=lambda i: rows.duration[i])
    spoken = [i for i in order if " " in rows[i]["wrd"]]
    return rows.subset(spoken[:COUNT])


def one_domain(speech):
    """All utterances as a global batch of one domain, in memory of its own."""
    return [DomainBatch("es", (speech.batch(range(COUNT), step=0)[0],))]


def recognition_brain(device, joint, tokenizer):
    """A recogniser as in the recipes, of mini size, ready for ``fit_batch``."""
    torch.manual_seed(0)
    features = StackedFbank(RATE)
    front_end = Linear(features.output_size, MINI["d_model"])
    hparams = {
        "modules": {
            "features": features,
            "encoder": Conformer(front_end, dropout=0.0, **MINI),
            "readout": LastLayer(),
        },
        "pretrained": None,
        "beam_size": 4,
        "search_ctc_weight": 0.4,
        "max_decode_ratio": 1.0,
    }
    if joint:
        sizes = dict(num_layers=1, nhead=2, d_ffn=64, dropout=0.0)
        hparams["decoder"] = partial(AttentionDecoder, **sizes)
    kind, modules, searches = recogniser(hparams, tokenizer)
    brain = kind(
        modules,
        partial(torch.optim.AdamW, lr=4e-3, fused=True),
        {
            "seed": 0,
            "tokenizer": tokenizer,
            "searches": searches,
            "character_domains": (),
            "freeze_encoder_iterations": 0,
            "augment": None,
            "ctc_weight": 0.3,
            "label_smoothing": 0.0,
            "max_grad_norm": 5.0,
        },
        {"device": device},
    )
    brain.on_fit_start()
    brain.modules.train()
    return brain


def recognised(brain, parts, stage):
    """The text of each utterance, and how many of its characters are wrong."""
    brain.modules.eval()
    brain.on_stage_start(stage, 1)
    with torch.no_grad():
        brain.evaluate_batch(parts[0], stage)
    return [(u["hypothesis"], u["char_errors"]) for u in brain.utterances]
