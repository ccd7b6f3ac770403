"""Runs of the recipes' own YAMLs on a little speech, tiny, to test what they leave."""

from contextlib import contextmanager
from pathlib import Path

import speechbrain as sb

from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.pipelines.pretraining import pretrain
from hetero_brain.pipelines.recipe import read_recipe
from hetero_brain.recognition.ctc import CTCBrain

RECIPES = Path(__file__).parents[2] / "recipes"
PHASE = (
    "--size mini --max_utterance_seconds 0.6 --global_batch_seconds 12 --cssl_epochs 1"
)
PHASE += " --only_phases [CSSL.1] --num_workers 0"
BESTRQ = "VoicePrompts/pretrain/hparams/bestrq.yaml"
CPC = "CommonVoice/pretrain/hparams/cpc.yaml"
FINETUNE = "--epochs 2 --valid_interval 1 --global_batch_seconds 6 --num_workers 0"


def hparams_of(yaml, words, folder=None):
    """Hyperparameters and run options of a recipe's YAML with some overrides."""
    argv = [
        str(RECIPES / yaml),
        "--data_folder",
        "x",
        "--device",
        "cpu",
        *words.split(),
    ]
    argv += ["--output_folder", str(folder)] if folder else []
    hparams, run_opts, _ = read_recipe([*argv, "--noprogressbar"])
    if folder:
        hparams.record = {folder / "hyperparams.yaml": words.encode()}
    return hparams, run_opts


def pretrained(yaml, words, folder, manifest):
    """The folder of a phase, and its modules."""
    hparams, run_opts = hparams_of(yaml, f"{PHASE} {words}", folder)
    pretrain(hparams, run_opts, manifest, None)
    return folder / "CSSL.1", hparams["modules"]


def finetuned(yaml, words, folder, manifest, heard=None):
    """The folder of a fine-tuning run."""
    hparams, run_opts = hparams_of(yaml, f"{FINETUNE} {words}", folder)
    with evaluation(heard if heard is not None else []):
        finetune(hparams, run_opts, {"train": manifest, "dev": manifest})
    return folder


@contextmanager
def evaluation(heard):
    """Note waveforms, lengths and predictions of the batches of the final evaluation."""
    objectives = CTCBrain.compute_objectives

    def noting(self, predictions, batch, stage):
        if stage == sb.Stage.TEST:
            heard.append((*batch.sig, predictions, batch.id))
        return objectives(self, predictions, batch, stage)

    CTCBrain.compute_objectives = noting
    try:
        yield
    finally:
        CTCBrain.compute_objectives = objectives
