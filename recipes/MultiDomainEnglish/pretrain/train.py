#!/usr/bin/env python3
r"""Pre-train on several kinds of English: CSSL.1 → PTLOC.1 → CSSL.2 → ….

> python recipes/MultiDomainEnglish/pretrain/train.py \
    recipes/MultiDomainEnglish/pretrain/hparams/paper.yaml --data_folder /data
"""

import sys
from pathlib import Path

from hetero_brain.pipelines.usage import help_if_asked

if __name__ == "__main__":
    help_if_asked(__file__, __doc__)  # before the imports below, which take seconds

from hetero_brain.data.splits import pretraining_splits
from hetero_brain.pipelines.pretraining import pretrain
from hetero_brain.pipelines.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from multi_domain_english_prepare import prepared


def main(argv):
    """Prepare, and run the phases."""
    hparams, run_opts = load_recipe(argv, __file__)
    _, folder = prepared(hparams)
    domains = hparams["pretrain_domains"] or None
    splits = pretraining_splits(
        folder / "pretrain.csv", hparams["data_folder"], domains
    )
    pretrain(hparams, run_opts, *splits)


if __name__ == "__main__":
    run(main)
