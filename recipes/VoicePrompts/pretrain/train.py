#!/usr/bin/env python3
r"""Pre-train on Asterisk's voice prompts: CSSL.1 → PTLOC.1 → …, and the CSSL control.

> python recipes/VoicePrompts/pretrain/train.py \
    recipes/VoicePrompts/pretrain/hparams/bestrq.yaml \
    --data_folder /data/voice_prompts
"""

import sys
from pathlib import Path

from hetero_brain.pipelines.usage import help_if_asked

if __name__ == "__main__":
    help_if_asked(__file__, __doc__)  # before the imports below, which take seconds

from speechbrain.utils.distributed import run_on_main

from hetero_brain.data.splits import pretraining_splits
from hetero_brain.pipelines.pretraining import pretrain
from hetero_brain.pipelines.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from voice_prompts_prepare import prepare_voice_prompts


def main(argv):
    """Prepare, and run the phases."""
    hparams, run_opts = load_recipe(argv, __file__)
    data_folder, domains = hparams["data_folder"], hparams["pretrain_domains"]
    save_folder = Path(hparams["output_folder"]) / "manifests"
    run_on_main(prepare_voice_prompts, args=[data_folder, save_folder, domains])
    splits = pretraining_splits(save_folder / "train.csv", data_folder, domains)
    pretrain(hparams, run_opts, *splits)


if __name__ == "__main__":
    run(main)
