"""What every recipe's train.py begins with."""

import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAMLError

from . import preemption


def load_recipe(argv):
    """Read the command line and the YAML, and make the experiment's folder.

    Arguments
    ---------
    argv : list of str
        ``hparams.yaml``, overrides (``--key value``) and SpeechBrain's run options.

    Returns
    -------
    hparams : dict
        The YAML with overrides.
    run_opts : RunOptions
        SpeechBrain's.

    Raises
    ------
    SystemExit
        An override that the YAML does not have or that is given twice, or a value still
        to be given.
    """
    preemption.listen()
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    try:
        with open(hparams_file, encoding="utf-8") as file:
            hparams = load_hyperpyyaml(file, overrides)
    except YAMLError as fault:  # an override given twice, a bracket not closed
        sys.exit(f"{hparams_file} with {overrides!r}: {fault}")
    except (KeyError, ValueError) as fault:
        sys.exit(f"{hparams_file}: {fault.args[0] if fault.args else fault}")
    sb.utils.distributed.ddp_init_group(run_opts)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)
    return hparams, run_opts
