#!/usr/bin/env python3
r"""Fine-tune a pre-trained encoder on Common Voice, with CTC or CTC and attention.

> python recipes/CommonVoice/finetune/train.py \
    recipes/CommonVoice/finetune/hparams/ctc.yaml \
    --data_folder /data/cv-corpus-17.0-2024-03-15 --finetune_domains "[cy]" \
    --pretrained results/cpc/1/PTLOC.3
"""

import sys
from pathlib import Path

from hetero_brain.pipelines.usage import help_if_asked

if __name__ == "__main__":
    help_if_asked(__file__, __doc__)  # before the imports below, which take seconds

from speechbrain.utils.distributed import run_on_main

from hetero_brain.data.corpora.language_text import scored_by_characters
from hetero_brain.data.splits import finetuning_splits
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.pipelines.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from common_voice_prepare import prepare_common_voice


def main(argv):
    """Prepare, fine-tune, evaluate."""
    hparams, run_opts = load_recipe(argv, __file__)
    data_folder, domains = hparams["data_folder"], hparams["finetune_domains"]
    save_folder = Path(hparams["output_folder"]) / "manifests"
    run_on_main(
        prepare_common_voice,
        args=[data_folder, save_folder],
        kwargs={
            "finetune_domains": domains,
            "max_finetune_hours": hparams["max_finetune_hours"],
            "max_test_hours": hparams["max_test_hours"],
            "keep_speakers_apart": hparams["keep_speakers_apart"],
            "seed": hparams["data_seed"],
        },
    )
    hparams["character_domains"] = [*filter(scored_by_characters, domains)]
    splits = finetuning_splits(
        save_folder, data_folder, domains, hparams["eval_splits"], hparams["data_seed"]
    )
    finetune(hparams, run_opts, splits)


if __name__ == "__main__":
    run(main)
