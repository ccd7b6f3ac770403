#!/usr/bin/env python3
"""Pre-train on Common Voice in several languages: CSSL.1 → PTLOC.1 → CSSL.2 → ….

> python train.py hparams/cpc.yaml --data_folder /data/cv-corpus-17.0-2024-03-15
"""

import sys
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from hetero_brain import manifest
from hetero_brain.pretraining import pretrain
from hetero_brain.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from common_voice_prepare import prepare_common_voice  # noqa: E402


def main(argv):
    """Prepare, and run the phases."""
    hparams, run_opts = load_recipe(argv)
    data_folder = hparams["data_folder"]
    save_folder = Path(hparams["output_folder"]) / "manifests"
    keys = ("pretrain_languages", "pretrain_splits", "max_pretrain_hours")
    run_on_main(
        prepare_common_voice,
        args=[data_folder, save_folder],
        kwargs={"seed": hparams["data_seed"], **{key: hparams[key] for key in keys}},
    )
    train, dev = (
        manifest.read(
            save_folder / f"{split}.csv", data_folder, hparams["pretrain_languages"]
        )
        for split in ("pretrain", "dev")
    )
    pretrain(hparams, run_opts, train, dev)


if __name__ == "__main__":
    run(main)
