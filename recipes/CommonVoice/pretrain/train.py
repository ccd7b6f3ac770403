#!/usr/bin/env python3
r"""Pre-train on Common Voice in several languages: CSSL.1 → PTLOC.1 → CSSL.2 → ….

> python recipes/CommonVoice/pretrain/train.py \
    recipes/CommonVoice/pretrain/hparams/cpc.yaml \
    --data_folder /data/cv-corpus-17.0-2024-03-15
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
from common_voice_prepare import prepare_common_voice


def main(argv):
    """Prepare, and run the phases."""
    hparams, run_opts = load_recipe(argv, __file__)
    data_folder = hparams["data_folder"]
    save_folder = Path(hparams["output_folder"]) / "manifests"
    domains = hparams["pretrain_domains"]
    keys = ("pretrain_splits", "max_pretrain_hours", "keep_speakers_apart")
    run_on_main(
        prepare_common_voice,
        args=[data_folder, save_folder],
        kwargs={
            "pretrain_domains": domains,
            "seed": hparams["data_seed"],
            **{key: hparams[key] for key in keys},
        },
    )
    splits = pretraining_splits(save_folder / "pretrain.csv", data_folder, domains)
    pretrain(hparams, run_opts, *splits)


if __name__ == "__main__":
    run(main)
