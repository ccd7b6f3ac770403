"""``python -m hetero_brain.experiment FILE.yaml``; see ``commands/experiment.py``."""

import sys

from .commands.experiment import main
from .errors import reported

if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
