#!/usr/bin/env python3
"""Fine-tune an encoder on kinds of English, with CTC or CTC and attention.

> python train.py hparams/ctc.yaml --data_folder /data --domains "[libri]" \
    --pretrained ../pretrain/results/paper/1/PTLOC.3
"""

import sys
from pathlib import Path

from hetero_brain import manifest
from hetero_brain.dataio import labelled
from hetero_brain.finetuning import finetune
from hetero_brain.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from multi_domain_english_prepare import prepared  # noqa: E402


def main(argv):
    """Prepare, fine-tune, evaluate."""
    hparams, run_opts = load_recipe(argv)
    entries, folder = prepared(hparams)
    root, seed, domains = (hparams[k] for k in ("data_folder", "seed", "domains"))
    splits = {
        split: labelled(manifest.read(folder / f"{split}.csv", root, domains), seed)
        for split in ("train", "dev")
    }
    if "test" in hparams["eval_splits"]:
        # Test sets of these domains, and of all that are only for testing.
        unseen = [e["name"] for e in entries if "finetune" not in e["splits"]]
        test = manifest.read(folder / "test.csv", root)
        names = [d for d in test.domains if d.split("/")[0] in {*domains, *unseen}]
        splits["test"] = labelled(manifest.read(test.path, root, names), seed)
    finetune(hparams, run_opts, splits)


if __name__ == "__main__":
    run(main)
