"""A key with a wrong value is named before anything is prepared: no traceback."""

from pathlib import Path

import pytest

from hetero_brain.pipelines.recipe import read_recipe
from hetero_brain.pipelines.wrong_values import wrong_modules
from tests.unit.trained import RECIPES

PRETRAIN, CTC, ATTENTION = "pretrain/bestrq", "finetune/ctc", "finetune/attention"
OBJECT = "an object is wanted, such as '!"
WRONG = [
    (PRETRAIN, "brain_class", "x", OBJECT),
    (PRETRAIN, "ckpt_interval_minutes", "-1", "a number ≥ 0"),
    (PRETRAIN, "cssl_epochs", "2.5", "an integer ≥ 1"),
    (PRETRAIN, "cssl_hold_epochs", "-1", "a number ≥ 0"),
    (PRETRAIN, "cssl_lr", "-3.0", "a number ≥ 0"),
    (PRETRAIN, "device", "x", "not a device; there are cpu, cuda"),
    (PRETRAIN, "distributed_backend", "x", "there are nccl, gloo, mpi"),
    (PRETRAIN, "domain_sampling", "x", "one of proportional, equal, temperature"),
    (PRETRAIN, "encoder", "x", OBJECT),
    (PRETRAIN, "domains_per_iteration", "0", "an integer ≥ 1, or null"),
    (PRETRAIN, "front_end", "x", "choose one of linear, conv, conv1d"),
    (PRETRAIN, "global_batch_seconds", "-4", "a number above 0 (seconds)"),
    (PRETRAIN, "hypergradient", "x", "one of first_order, exact"),
    (PRETRAIN, "keep_last", "1", "an integer ≥ 2"),
    (PRETRAIN, "labels", "x", "there are random_projection, and kmeans"),
    (PRETRAIN, "labels", "teacher", "needs a public model"),
    (PRETRAIN, "local_lr", "-1", "a number ≥ 0"),
    (PRETRAIN, "local_steps", "-1", "an integer ≥ 0"),
    (PRETRAIN, "lr_decay", "1.1", "above 0, at most 1"),
    (PRETRAIN, "local_optimizer_state", "x", "one of fresh, per_domain"),
    (PRETRAIN, "max_utterance_seconds", "0", "a number above 0 (seconds)"),
    (PRETRAIN, "n_rounds", "0", "an integer ≥ 1"),
    (PRETRAIN, "ptloc_lr", ".nan", "a number ≥ 0"),
    (PRETRAIN, "n_mels", "0", "an integer ≥ 1"),
    (PRETRAIN, "only_phases", "[CSSL.7]", "no phase ['CSSL.7'] among ['CSSL.1', 'PTL"),
    (PRETRAIN, "pretrained", "x/y", "there is no such folder"),
    (PRETRAIN, "quantizer", "x", OBJECT),
    (PRETRAIN, "precision", "bf32", "invalid choice: 'bf32' (choose from "),
    (PRETRAIN, "precision", "fp16", "needs a GPU; on CPUs there are fp32 and bf16"),
    (PRETRAIN, "recomputed", "x", "choose one of none, feed_forward, blocks"),
    (PRETRAIN, "replicas_per_domain", "0", "an integer ≥ 1"),
    (PRETRAIN, "sample_rate", "16", "a sample rate in Hz, such as 16000"),
    (PRETRAIN, "size", "x", "choose one of mini, tiny, base"),
    (CTC, "augment", "x", OBJECT),
    (CTC, "beam_size", "0", "an integer ≥ 1, or null"),
    (CTC, "encoder_lr", "-1", "a number ≥ 0, or null"),
    (CTC, "epochs", "0", "an integer ≥ 1"),
    (CTC, "eval_splits", "[x]", "a list of train, dev, test"),
    (CTC, "lm", "x.arpa", "needs a beam search; give a beam_size"),
    (CTC, "lr", "-1", "a number ≥ 0"),
    (CTC, "lr_schedule", "x", OBJECT),
    (CTC, "readout", "x", OBJECT),
    (CTC, "speed_changes", "[]", "a list of speeds above 0"),
    (CTC, "speed_changes", "[90, 0]", "a list of speeds above 0"),
    (CTC, "train_logger", "x", "a train logger, such as !name:"),
    (CTC, "warmup_iterations", "-1", "an integer ≥ 0"),
    (CTC, "wav_augment", "x", OBJECT),
    (CTC, "unit", "x", "one of char, unigram, bpe"),
    (ATTENTION, "beam_size", "null", "None is for CTC alone"),
    (ATTENTION, "ctc_weight", "2", "a number from 0 to 1"),
    (ATTENTION, "decoder", "x", OBJECT),
]


def argv(kind, *words):
    """A command line for a YAML of VoicePrompts."""
    path = RECIPES / f"VoicePrompts/{kind.replace('/', '/hparams/')}.yaml"
    return [str(path), "--data_folder", "x", *words]


@pytest.mark.parametrize("kind, key, value, told", WRONG)
def test_a_wrong_value_is_named(kind, key, value, told):
    words = [] if key == "size" else ["--size", "mini"]
    with pytest.raises(SystemExit) as end:
        read_recipe(argv(kind, *words, f"--{key}", value))
    assert isinstance(end.value.code, str)  # which Python prints, without a traceback
    assert told in end.value.code and f"{key}" in end.value.code
    assert value.strip("[].").replace("null", "None") in end.value.code


def test_a_package_that_is_not_installed_is_named():
    given = "!name:speechbrain.utils.train_logger.WandBLogger {initializer: !name:%s }"
    with pytest.raises(SystemExit, match="not installed here: pip install nopackage$"):
        read_recipe(argv(CTC, "--train_logger", given % "nopackage.init"))
    with pytest.raises(SystemExit, match="no such entity as torch.nothing$"):
        read_recipe(argv(CTC, "--train_logger", given % "torch.nothing"))


def test_all_wrong_values_at_once_also_of_the_yaml_itself(tmp_path):
    path = tmp_path / "x.yaml"
    text = Path(argv(CTC)[0]).read_text("utf-8")
    for key, value in (("precision", "fp8"), ("unit", "word"), ("valid_interval", "0")):
        start = text.index(f"\n{key}: ")
        text = f"{text[:start]}\n{key}: {value}{text[text.index(chr(10), start + 1) :]}"
    path.write_text(text, "utf-8")
    with pytest.raises(SystemExit) as end:
        read_recipe([str(path), "--data_folder", "x", "--size", "mini"])
    assert end.value.code.splitlines() == [
        "Wrong hyperparameters:",
        "  valid_interval: 0 is not an integer ≥ 1 (epochs)",
        "  precision: 'fp8' is not one of fp32, bf16, fp16",
        "  unit: 'word' is not one of char, unigram, bpe",
    ]


def test_what_is_no_module_is_named():
    hparams = {"modules": {"encoder": "x"}}
    assert [*wrong_modules(hparams)] == [
        "encoder: 'x' is not a module, such as !new:torch.nn.Identity"
    ]
