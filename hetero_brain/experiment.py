"""``python -m hetero_brain.experiment FILE.yaml``; see ``pipelines/experiment.py``."""

import sys

from .errors import reported
from .pipelines.experiment import main

if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
