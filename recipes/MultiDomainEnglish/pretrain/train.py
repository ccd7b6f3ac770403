#!/usr/bin/env python3
"""Pre-train on several kinds of English: CSSL.1 → PTLOC.1 → CSSL.2 → ….

> python train.py hparams/paper.yaml --data_folder /data
"""

import sys
from pathlib import Path

from hetero_brain import manifest
from hetero_brain.pretraining import pretrain
from hetero_brain.recipe import load_recipe, run

sys.path.append(str(Path(__file__).resolve().parent.parent))
from multi_domain_english_prepare import prepared  # noqa: E402


def main(argv):
    """Prepare, and run the phases."""
    hparams, run_opts = load_recipe(argv)
    _, folder = prepared(hparams)
    train = manifest.read(folder / "pretrain.csv", hparams["data_folder"])
    dev = manifest.read(folder / "dev.csv", hparams["data_folder"])
    seen = [name in train.domains for name in dev.domains]
    if not any(seen):
        sys.exit(f"{folder}/dev.csv: none of {train.domains}; give one a dev split")
    dev = dev.subset([i for i, domain in enumerate(dev.domain) if seen[domain]])
    pretrain(hparams, run_opts, train, dev)


if __name__ == "__main__":
    run(main)
