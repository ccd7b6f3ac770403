#!/usr/bin/env python3
"""Pre-train on Asterisk's voice prompts: CSSL.1 → PTLOC.1 → …, and the CSSL control.

> python train.py hparams/bestrq.yaml --data_folder /data/voice_prompts
"""

import sys
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from hetero_brain import manifest
from hetero_brain.dataio import Utterances, dev_loader, make_plan, train_loader
from hetero_brain.objectives.bestrq import BestRQBrain
from hetero_brain.objectives.quantizers import fit_quantizer
from hetero_brain.recipe import load_recipe
from hetero_brain.rounds import run_phases

sys.path.append(str(Path(__file__).resolve().parent.parent))
from voice_prompts_prepare import prepare_voice_prompts  # noqa: E402


def main(argv):
    """Prepare, build the loaders, run the phases."""
    hparams, run_opts = load_recipe(argv)
    data_folder, domains = hparams["data_folder"], hparams["domains"]
    save_folder = Path(hparams["output_folder"]) / "manifests"
    run_on_main(prepare_voice_prompts, args=[data_folder, save_folder, domains])

    train, dev = (
        Utterances(
            manifest.read(save_folder / f"{split}.csv", data_folder, domains),
            hparams["sample_rate"],
            max_utterance_seconds=hparams["max_utterance_seconds"],
            seed=hparams["seed"],
        )
        for split in ("train", "dev")
    )
    fit_quantizer(
        hparams["quantizer"],
        hparams["features"],
        train,
        Path(hparams["output_folder"]) / "quantizer.ckpt",
    )
    plan = make_plan(train.manifest, hparams["seed"], **hparams["plan"])
    run_phases(
        hparams,
        run_opts,
        BestRQBrain,
        train_loader(train, plan, **hparams["loader"]),
        dev_loader(dev, hparams["global_batch_seconds"], **hparams["loader"]),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
