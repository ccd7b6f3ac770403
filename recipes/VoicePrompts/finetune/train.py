#!/usr/bin/env python3
r"""Fine-tune an encoder on the voice prompts, with CTC or CTC and attention.

> python recipes/VoicePrompts/finetune/train.py \
    recipes/VoicePrompts/finetune/hparams/ctc.yaml --data_folder / \
    --finetune_domains "[it]" --pretrained results/pretrain/1/PTLOC.1
"""

import sys
from pathlib import Path

from hetero_brain.pipelines.usage import help_if_asked

if __name__ == "__main__":
    help_if_asked(__file__, __doc__)  # before the imports below, which take seconds

from speechbrain.utils.distributed import run_on_main

from hetero_brain.data.splits import finetuning_splits
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.pipelines.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from voice_prompts_prepare import prepare_voice_prompts


def main(argv):
    """Prepare, fine-tune, evaluate."""
    hparams, run_opts = load_recipe(argv, __file__)
    data_folder, domains = hparams["data_folder"], hparams["finetune_domains"]
    save_folder = Path(hparams["output_folder"]) / "manifests"
    run_on_main(prepare_voice_prompts, args=[data_folder, save_folder, domains])
    splits = finetuning_splits(
        save_folder,
        data_folder,
        domains,
        hparams["eval_splits"],
        hparams["data_seed"],
        hparams["max_finetune_hours"],
    )
    finetune(hparams, run_opts, splits)


if __name__ == "__main__":
    run(main)
