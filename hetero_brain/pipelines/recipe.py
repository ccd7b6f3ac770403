"""What every recipe's train.py begins and ends with."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.run_opts import RunOptions

from ..data.workers import use_short_socket_paths
from ..errors import InputError, reported
from ..training import preemption
from .overrides import override
from .yaml_files import Text, load_tree, read_tree

if torch.distributed.is_available():
    # Before there is a group: default arguments of its functions are the group that there
    # is when it is imported, which torch._dynamo does in the midst of a run. They
    # would hold the group, and its threads, when the process ends.
    import torch.distributed.nn


def run(main):
    """Call a recipe's ``main`` with the command line, and part from the other ranks.

    A process that ends in a group of ranks may be aborted: gloo's threads then run where
    Python no longer does, NCCL's buffers are not freed (pytorch/pytorch#190489). After an
    error the group stays, since ranks that wait in it would hold this one up.

    Arguments
    ---------
    main : callable
        Takes the list of arguments behind the script's name.
    """
    try:
        with reported():
            main(sys.argv[1:])
    except preemption.Leaving as leaving:
        if leaving.saved:  # so do all ranks
            part()
        raise
    part()


def part():
    """Leave the group of ranks, if there is one."""
    if sb.utils.distributed.is_distributed_initialized():
        torch.distributed.destroy_process_group()


def load_recipe(argv):
    """Read the command line and the YAML, join the other ranks, make the folder.

    Ranks on CPUs talk by gloo; others as SpeechBrain does, by NCCL if not told otherwise.

    With ``--debug`` all that a run writes is in ``<output_folder>/debug``, which begins
    empty: nothing there passes for a result, and a phase finds the one before it. (By
    itself SpeechBrain puts checkpoints into a temporary folder for each Brain.) With
    ``--debug_persistently``, too, it is in ``<output_folder>``.

    Arguments
    ---------
    argv : list of str
        ``hparams.yaml``, overrides (``--key value``) and SpeechBrain's run options.

    Returns
    -------
    hparams : Hparams
        The YAML with overrides.
    run_opts : RunOptions
        SpeechBrain's.

    Raises
    ------
    SystemExit
        As :func:`read_recipe`; or torchrun has started the ranks again, and gives them
        the store of those before.
    InputError
        As :func:`~hetero_brain.data.workers.use_short_socket_paths` and
        :func:`empty_debug_folder`.
    """
    preemption.listen()
    refuse_used_store()
    use_short_socket_paths()
    hparams, run_opts, resolved = read_recipe(argv)
    on_cpu = not torch.cuda.is_available() or run_opts["device"] == "cpu"
    if on_cpu and run_opts["distributed_backend"] == "nccl":
        run_opts = replace(run_opts, distributed_backend="gloo")
    sb.utils.distributed.ddp_init_group(run_opts)
    folder = hparams["output_folder"]
    if run_opts["debug"] and not run_opts["debug_persistently"]:
        given = {*run_opts.overridden_args, "debug_persistently"}
        run_opts = replace(run_opts, debug_persistently=True, overridden_args=given)
        run_on_main(empty_debug_folder, args=[Path(folder)])
    sb.create_experiment_directory(folder)
    if if_main_process():
        source = f"# {os.path.abspath(hparams.path)} with its overrides\n"
        Path(folder, "hyperparams.yaml").write_text(source + resolved, "utf-8")
    return hparams, run_opts


def empty_debug_folder(folder):
    """Make a folder for a run in debug mode, without what an earlier one left there.

    Raises
    ------
    InputError
        There is such a folder, and no run in debug mode has made it.
    """
    mark = folder / "made_by_debug"
    if folder.exists():
        if not mark.exists():
            raise InputError(
                f"{folder}: --debug deletes this folder, but no such run has made "
                "it; rename it, or give another output_folder"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    mark.touch()


def refuse_used_store():
    """Fail in place of a hang: ranks would look for each other where dead ones were.

    torchrun shares its store with the ranks, over restarts (pytorch/pytorch#135712).
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        sys.exit(
            "torchrun has started the ranks again, in a store with the addresses of "
            "those before: use templates/torchrun.py, or export "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; with --standalone or "
            "--rdzv-backend c10d"
        )


def read_recipe(argv):
    """Read the command line and the YAML, and do nothing else.

    Arguments
    ---------
    argv : list of str
        As for :func:`load_recipe`.

    Returns
    -------
    hparams, run_opts
        As of :func:`load_recipe`.
    resolved : str
        The YAML with overrides, its references resolved.

    Raises
    ------
    SystemExit
        What :mod:`yaml_files` and :mod:`overrides` refuse; the message names all wrong
        overrides at once.
    """
    hparams_file, run_opts, _ = sb.parse_arguments(argv)
    # SpeechBrain joins the overrides to one YAML text, which changes what they say.
    _, words = RunOptions._create_parser().parse_known_args(argv)
    try:
        tree = read_tree(hparams_file)
        try:
            override(tree, words, hparams_file)
        except InputError as fault:
            raise InputError(f"{hparams_file}: {fault}") from fault
        hparams, resolved = load_tree(hparams_file, tree)
        if run_opts["debug"] and not run_opts["debug_persistently"]:
            tree["output_folder"] = Text(f"{hparams['output_folder']}/debug")
            hparams, resolved = load_tree(hparams_file, tree)
    except InputError as fault:
        sys.exit(str(fault))
    return hparams, run_opts, resolved
