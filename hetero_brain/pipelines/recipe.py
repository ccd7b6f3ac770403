"""How every recipe's train.py starts and ends: command line, YAML, group of ranks."""

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
from ..training.determinism import be_deterministic
from .console import for_people
from .earlier_run import refuse_earlier_run
from .environment import describe_environment
from .overrides import override
from .pretrained import adopt
from .undo import Undo
from .wrong_values import refuse_wrong_scalars, refuse_wrong_values
from .yaml_files import Hparams, Text, build, read_tree, resolve

if torch.distributed.is_available():
    # Imported before a process group exists: default arguments of this module's functions
    # are the group at the time of the import. If torch._dynamo imported it in the middle
    # of a run, they would keep the group and its threads alive when the process ends.
    import torch.distributed.nn

RESOLVED = "hyperparams.yaml"  # the YAML with its overrides, in the folder of a run
changes = Undo()  # what this start has changed, until its run is accepted


def run(main):
    """Call a recipe's ``main`` with the command line, then leave the process group.

    A start that is refused leaves no folder that was not there before, and the manifests
    as they were.

    A process that ends inside a process group may abort: gloo's threads outlive the
    interpreter, and NCCL's buffers are not freed (pytorch/pytorch#190489). After an error
    the process stays in the group: leaving would block on ranks that wait in it.

    Arguments
    ---------
    main : callable
        Takes the list of arguments after the script's name.
    """
    try:
        with reported():
            try:
                main(sys.argv[1:])
            except InputError:
                if if_main_process():
                    changes.take_back()
                raise
    except preemption.Leaving as leaving:
        if leaving.saved:  # then all ranks leave
            leave_group()
        raise
    leave_group()


def leave_group():
    """Destroy the process group, if there is one."""
    if sb.utils.distributed.is_distributed_initialized():
        torch.distributed.destroy_process_group()


def load_recipe(argv, script=None):
    """Read the command line and the YAML, join the process group, create the folder.

    The record of the run is the YAML with its overrides resolved, the recipe's
    ``train.py``, and ``env.log``. A folder without one gets it at once. In another folder
    it is for the run to write (:meth:`Hparams.write_record`) when its last checkpoint is
    loaded: a run that is refused there leaves the record of the one before.

    Ranks on CPUs communicate through gloo; others through NCCL, SpeechBrain's default,
    unless the command line chooses another backend. With ``deterministic: True`` in the
    YAML, results on a GPU can be repeated bit for bit.

    With ``--debug`` a run writes everything to ``<output_folder>/debug``, which starts
    empty: nothing there can be taken for a result, and a phase finds the one before it.
    (SpeechBrain's own debug mode puts the checkpoints of each Brain into a temporary
    folder.) With ``--debug_persistently`` as well, it writes to ``<output_folder>``.

    Arguments
    ---------
    argv : list of str
        ``hparams.yaml``, overrides (``--key value``) and SpeechBrain's run options.
    script : str
        Path of the recipe's ``train.py``; None if no recipe calls.

    Returns
    -------
    hparams : Hparams
        The YAML with overrides.
    run_opts : RunOptions
        SpeechBrain's run options.

    Raises
    ------
    SystemExit
        See :func:`read_recipe`; or torchrun has restarted the ranks with the store of the
        old ones.
    InputError
        See :func:`~hetero_brain.data.workers.use_short_socket_paths`,
        :func:`~hetero_brain.pipelines.earlier_run.refuse_earlier_run` and
        :func:`empty_debug_folder`.
    """
    preemption.listen()
    refuse_used_store()
    use_short_socket_paths()
    hparams, run_opts, resolved = read_recipe(argv)
    refuse_earlier_run(hparams, run_opts)
    if hparams.get("deterministic"):
        be_deterministic()
    on_cpu = not torch.cuda.is_available() or run_opts["device"] == "cpu"
    if on_cpu and run_opts["distributed_backend"] == "nccl":
        run_opts = replace(run_opts, distributed_backend="gloo")
    sb.utils.distributed.ddp_init_group(run_opts)
    folder = Path(hparams["output_folder"])
    run_on_main(changes.begin, args=[folder])
    hparams.changes = changes
    if run_opts["debug"] and not run_opts["debug_persistently"]:
        given = {*run_opts.overridden_args, "debug_persistently"}
        run_opts = replace(run_opts, debug_persistently=True, overridden_args=given)
        run_on_main(empty_debug_folder, args=[folder])
    with for_people():
        sb.create_experiment_directory(folder, save_env_desc=False)
    if if_main_process():
        # SpeechBrain copies the file that calls it, which is this one.
        Path(folder, Path(__file__).name).unlink(missing_ok=True)
        hparams.record = record_of(hparams, resolved, script)
        if not Path(folder, RESOLVED).exists():
            hparams.write_record()
    return hparams, run_opts


def record_of(hparams, resolved, script):
    """The record of a run: path → content. Arguments are as for :func:`load_recipe`, and
    ``resolved`` as returned by :func:`read_recipe`."""
    folder = Path(hparams["output_folder"])
    text = f"# {os.path.abspath(hparams.path)} with its overrides\n{resolved}"
    record = {
        folder / RESOLVED: text.encode(),
        folder / "env.log": describe_environment().encode(),
    }
    if script is not None:
        record[folder / Path(script).name] = Path(script).read_bytes()
    return record


def empty_debug_folder(folder):
    """Create an empty folder for a run in debug mode; replaces that of an earlier one.

    Raises
    ------
    InputError
        The folder exists, but was not created by a run in debug mode.
    """
    marker = folder / "made_by_debug"
    if folder.exists():
        if not marker.exists():
            raise InputError(
                f"{folder}: --debug deletes this folder, but it was not created by a run "
                "with --debug; rename it, or give another output_folder"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    marker.touch()


def refuse_used_store():
    """Fail instead of hanging: restarted ranks would connect to addresses of dead ones.

    torchrun shares one store with its ranks across restarts (pytorch/pytorch#135712).
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        sys.exit(
            "torchrun has restarted the ranks with a store that holds the addresses of "
            "the old ones: use templates/torchrun.py, or export "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; either of them with --standalone or "
            "--rdzv-backend c10d"
        )


def options_parser():
    """SpeechBrain's parser of a command line, without pages of usage after a mistake."""

    def refuse(message):
        raise InputError(f"{message}; --help lists all options")

    parser = RunOptions._create_parser()
    parser.error = refuse
    return parser


def read_recipe(argv):
    """Read the command line and the YAML, without side effects.

    Arguments
    ---------
    argv : list of str
        As for :func:`load_recipe`.

    Returns
    -------
    hparams, run_opts
        As for :func:`load_recipe`.
    resolved : str
        The YAML with overrides, its references resolved.

    Raises
    ------
    SystemExit
        :mod:`yaml_files`, :mod:`overrides`, :mod:`pretrained` or :mod:`wrong_values`
        refuses the input; the message names all wrong overrides, or values, at once.
    """
    try:
        # SpeechBrain joins overrides into one YAML text, which can change their values.
        _, words = options_parser().parse_known_args(argv)
        hparams_file, run_opts, _ = sb.parse_arguments(argv)
        tree = read_tree(hparams_file)
        try:
            given = override(tree, words, hparams_file)
        except InputError as error:
            raise InputError(f"{hparams_file}: {error}") from error
        adopt(tree, given, hparams_file)
        resolved = resolve(hparams_file, tree)
        if run_opts["debug"] and not run_opts["debug_persistently"]:
            folder = Hparams(hparams_file, resolved)["output_folder"]
            tree["output_folder"] = Text(f"{folder}/debug")
            resolved = resolve(hparams_file, tree)
        refuse_wrong_scalars(resolved, run_opts)
        hparams, resolved = build(hparams_file, resolved)
        refuse_wrong_values(hparams)
    except InputError as error:
        sys.exit(str(error))
    return hparams, run_opts, resolved
