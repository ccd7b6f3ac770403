"""Utterances of a manifest that CTC cannot spell are logged before training."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from hetero_brain.models.conformer import Conformer
from hetero_brain.models.decoder import AttentionDecoder
from hetero_brain.models.features import StackedFbank
from hetero_brain.models.readouts import LastLayer
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.recognition.spelling import leave_out_unspellable, unspellable
from hetero_brain.recognition.tokenizer import train_tokenizer
from hetero_brain.training.loggers import JsonLinesLogger

RUN_OPTS = {"device": "cpu", "noprogressbar": True}


def settings(folder, stack, **changed):
    """As a recipe's ``ctc.yaml``, tiny."""
    torch.manual_seed(0)
    sizes = dict(d_model=32, nhead=2, d_ffn=32, kernel_size=7, dropout=0.0)
    return {
        "output_folder": str(folder),
        "unit": "char",
        "vocab_size": 1000,
        "modules": {
            "features": StackedFbank(8000, n_mels=20, stack=stack),
            "encoder": Conformer(nn.Linear(20 * stack, 32), 1, **sizes),
            "readout": LastLayer(),
        },
        "pretrained": None,
        "beam_size": None,
        "epochs": 1,
        "opt_class": partial(torch.optim.AdamW, lr=1e-3),
        "sample_rate": 8000,
        "seed": 1,
        "loader": {},
        "eval_batch_seconds": 30,
        "eval_splits": ["dev"],
        "plan": {"global_batch_seconds": 20},
        "freeze_encoder_iterations": 0,
        "augment": None,
        "valid_interval": 1,
        "log_interval": 1,
        **changed,
    }


@pytest.fixture(scope="module")
def labelled(sample):
    """Transcribed prompts of two languages, at a stack where some have few frames."""

    def of(split):
        rows = sample(split, ["en", "es"])
        return rows.subset([i for i, row in enumerate(rows) if row["wrd"]])

    return {split: of(split) for split in ("train", "dev")}


def by_hand(manifest, stack):
    """The IDs that CTC cannot spell in characters, by a plain reference."""
    found = set()
    for row in manifest:
        text = row["wrd"]
        needed = len(text) + sum(a == b for a, b in zip(text, text[1:]))
        feature_frames = 1 + round(row["duration"] * 8000) // 80
        if needed > math.ceil(feature_frames / stack):
            found.add(row["ID"])
    return found


@pytest.mark.parametrize("stack", [4, 9, 16])
def test_the_manifest_tells_them(labelled, tmp_path, stack):
    train = labelled["train"]
    tokenizer = train_tokenizer((row["wrd"] for row in train), tmp_path / "model")
    features = StackedFbank(8000, n_mels=20, stack=stack)
    found = unspellable(train, tokenizer, features, 8000)
    assert {train[row]["ID"] for row in found} == by_hand(train, stack)
    assert all(needed > there > 0 for needed, there in found.values())


@pytest.mark.parametrize("decoder", [False, True])
def test_real_speech_is_named_left_out_and_evaluated(
    labelled, tmp_path, caplog, decoder
):
    stack = 8
    bad = {split: by_hand(labelled[split], stack) for split in labelled}
    assert 0 < len(bad["train"]) < len(labelled["train"]) and bad["dev"]
    changed = {}
    if decoder:
        small = dict(num_layers=1, nhead=2, d_ffn=32, dropout=0.0)
        changed = {
            "decoder": partial(AttentionDecoder, **small),
            "ctc_weight": 0.3,
            "label_smoothing": 0.0,
            "beam_size": 1,
            "max_decode_ratio": 0.1,
            "search_ctc_weight": 0.3,
        }
    finetune(settings(tmp_path, stack, **changed), RUN_OPTS, labelled)
    for split, what in (
        ("train", "left out of the CTC loss" if decoder else "left out of training"),
        ("dev", "left out of the CTC loss"),
    ):
        path, total = labelled[split].path, len(labelled[split])
        (message,) = [
            r.message
            for r in caplog.records
            if r.message.startswith(f"{path}: {len(bad[split])} of {total} utterances")
        ]
        assert what in message
        named = {line.split(":")[0].strip() for line in message.split("\n")[1:21]}
        assert named <= bad[split] and len(named) == min(20, len(bad[split]))
        assert message.endswith(f"and {len(bad[split]) - 20} more") == (
            len(bad[split]) > 20
        )
    results = json.loads((tmp_path / "dev.json").read_text("utf-8"))
    assert len(results) == len(labelled["dev"])
    log = JsonLinesLogger.read(tmp_path / "log.jsonl")
    train = [entry["train"] for entry in log if "unspellable/en" in entry["train"]]
    shares = [v for entry in train for k, v in entry.items() if "unspellable" in k]
    assert shares and any(shares) == decoder
    (valid,) = [entry["valid"] for entry in log if "valid" in entry]
    assert math.isfinite(valid["loss"])
    assert valid["unspellable/en"] + valid["unspellable/es"] > 0


def test_a_domain_without_any_other_is_refused(labelled, tmp_path):
    """Before anything is trained."""
    with pytest.raises(ValueError) as error:
        finetune(settings(tmp_path, 400), RUN_OPTS, labelled)
    message = str(error.value)
    assert f"{labelled['train'].path}: CTC cannot spell any utterance of en, es" in (
        message
    )
    assert "stack" in message
    assert not (tmp_path / "save").exists()


def test_nothing_is_logged_where_all_can_be_spelled(labelled, tmp_path, caplog):
    train = labelled["train"]
    tokenizer = train_tokenizer((row["wrd"] for row in train), tmp_path / "model")
    features = StackedFbank(8000, n_mels=20, stack=1)
    splits = leave_out_unspellable(labelled, tokenizer, features, 8000)
    assert splits == labelled and not caplog.records
