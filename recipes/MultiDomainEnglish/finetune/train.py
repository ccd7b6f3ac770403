#!/usr/bin/env python3
r"""Fine-tune an encoder on kinds of English, with CTC or CTC and attention.

> python recipes/MultiDomainEnglish/finetune/train.py \
    recipes/MultiDomainEnglish/finetune/hparams/ctc.yaml --data_folder /data \
    --finetune_domains "[libri]" --pretrained results/paper/1/PTLOC.3
"""

import sys
from pathlib import Path

from hetero_brain.pipelines.usage import help_if_asked

if __name__ == "__main__":
    help_if_asked(__file__, __doc__)  # before the imports below, which take seconds

from hetero_brain.data.splits import finetuning_splits
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.pipelines.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from multi_domain_english_prepare import prepared


def main(argv):
    """Prepare, fine-tune, evaluate."""
    hparams, run_opts = load_recipe(argv, __file__)
    entries, folder = prepared(hparams)
    domains = hparams["finetune_domains"]
    # Test sets of these domains, and of all that are only for testing.
    unseen = [
        entry["name"]
        for entry in entries
        if "test" in entry["splits"] and "finetune" not in entry["splits"]
    ]
    splits = finetuning_splits(
        folder,
        hparams["data_folder"],
        domains,
        hparams["eval_splits"],
        hparams["data_seed"],
        hparams["max_finetune_hours"],
        test_domains=dict.fromkeys((*domains, *unseen)),
    )
    finetune(hparams, run_opts, splits)


if __name__ == "__main__":
    run(main)
