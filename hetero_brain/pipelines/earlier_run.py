"""What an output folder holds of earlier starts, and what must not follow upon it.

The phases in a folder form a chain: each starts from the last checkpoint of another. What
a phase was started from must stay as it was, or its origin, and the comparison with other
phases, would be false.
"""

from contextlib import suppress
from pathlib import Path

from ..errors import InputError, MissingData
from ..models.run_folder import epoch_of, newest, read_run, settled
from ..training.fingerprint import settings
from ..training.integrity import written_by_speechbrain
from ..training.recovery import refuse_another_run
from .phases import is_of_phases
from .wrong_values import wanted_phases


@settled
def refuse_earlier_run(hparams, run_opts):
    """Compare what is known without data with the checkpoints in the output folder.

    Arguments
    ---------
    hparams : dict
        Of a recipe: of its phases, those to run and those that they come from are
        compared; without ``phases``, the run itself.
    run_opts : RunOptions or dict
        SpeechBrain's run options.

    Raises
    ------
    InputError
        See :func:`refuse_broken_chain`; or a fine-tuning has fewer epochs than it has
        trained.
    AnotherRun
        The folder is another run's; lists what differs, with both values.
    """
    folder = Path(hparams["output_folder"])
    emptied = run_opts["debug"] and not run_opts["debug_persistently"]
    if "modules" not in hparams or emptied:
        return
    if "phases" not in hparams:
        refuse_settings(folder, settings(hparams, hparams["modules"]))
        found, most = newest(folder), run_opts["debug_epochs"]
        here = min(hparams["epochs"], most if run_opts["debug"] else float("inf"))
        if found and (problems := wrong_epochs(folder, found, here, [], True)):
            raise InputError(
                f"{folder}: {problems[0]}. Give another output_folder, or no fewer epochs"
            )
        return
    refuse_broken_chain(folder, hparams, run_opts)
    of_phases = [key for key in hparams if is_of_phases(key)]
    for phase in lineage(hparams["phases"], hparams["only_phases"]):
        own = {"phase": phase.settings()}
        ours = settings(hparams, hparams["modules"], of_phases, **own)
        refuse_settings(folder / phase.name, ours)


def refuse_settings(folder, ours):
    """Raise AnotherRun if the newest checkpoint of a run has other settings."""
    found = newest(folder)
    if found and not written_by_speechbrain(found.path):  # which has recorded none
        refuse_another_run(found.path, ours, whole=False)


def lineage(phases, only_phases):
    """The phases to run, and those that they come from, in their order."""
    inits = {phase.name: phase.init for phase in phases}
    wanted = {phase.name for phase in wanted_phases(phases, only_phases)}
    waiting = [*wanted]
    while waiting:
        if (init := inits[waiting.pop()]) in inits.keys() - wanted:
            wanted.add(init)
            waiting.append(init)
    return [phase for phase in phases if phase.name in wanted]


@settled
def refuse_broken_chain(folder, hparams, run_opts):
    """Refuse numbers of epochs by which phases would no longer come from one another.

    A phase that others have started from must not train on, and none can have fewer
    epochs than it has trained. The last phases of a chain may be given more.

    Arguments
    ---------
    folder : Path
        The output folder.
    hparams, run_opts : dict
        As for :func:`refuse_earlier_run`.

    Raises
    ------
    InputError
        Names all such phases, with their epochs there and here, the phases that started
        from each, and what to do.
    MissingData
        A phase starts from one that has not been run, and will not be.
    """
    phases, only = hparams["phases"], hparams["only_phases"]
    wanted = {phase.name for phase in wanted_phases(phases, only)}
    there = {path.parent.name: newest(path.parent) for path in folder.glob("*/save")}
    there = {name: found for name, found in there.items() if found}
    starts = {name: started_from(folder / name) for name in there}
    starts |= {phase.name: phase.init for phase in phases}
    most = run_opts["debug_epochs"] if run_opts.get("debug") else float("inf")
    problems = []
    for phase in lineage(phases, only):
        here = min(phase.epochs, most)
        heirs = [name for name in there if starts[name] == phase.name]
        if phase.name in there:
            found, is_wanted = there[phase.name], phase.name in wanted
            problems += wrong_epochs(folder / phase.name, found, here, heirs, is_wanted)
        elif phase.name not in wanted and not (folder / phase.name / "model").is_dir():
            first = [p.name for p in phases if p.init == phase.name]
            if new := [name for name in first if name in wanted - there.keys()]:
                raise MissingData(
                    f"{folder / phase.name}: no checkpoint yet, from which "
                    f"{' and '.join(new)} would start: name {phase.name} in only_phases, "
                    "too, or run it first"
                )
    if problems:
        raise InputError(
            f"{folder}: its phases have come from one another, which these numbers of "
            "epochs would make untrue:\n  " + "\n  ".join(problems) + "\nGive another "
            "output_folder, or the numbers of epochs there. More epochs are for phases "
            "that no other has started from."
        )


def started_from(folder):
    """The name of what a run started from, as far as it has recorded that."""
    with suppress(InputError):
        start = read_run(folder)["facts"].get("start")
        return start["title"] if isinstance(start, dict) else start


def wrong_epochs(folder, found, here, heirs, is_wanted):
    """What is wrong with the number of epochs of a phase that has begun.

    Arguments
    ---------
    folder : Path
        Of the phase.
    found : Checkpoint
        Its newest one.
    here : int
        The epochs that it would have.
    heirs : list of str
        The phases that have started from it.
    is_wanted : bool
        Whether it would be run.

    Returns
    -------
    list of str
        At most one sentence.
    """
    trained, whole, planned = epoch_of(found), found.meta["end-of-epoch"], None
    with suppress(InputError):
        planned = read_run(folder)["epochs"]
    planned = max(trained, planned or 0)
    is_done = whole and trained >= planned
    epochs = f"{trained}" if is_done else f"{trained} of {planned}"
    told = f"{folder.name}: epochs: {epochs} there, {here} here"
    if here < trained:
        return [f"{told}: fewer than it has trained{after(heirs)}"]
    if is_wanted and heirs and (here > trained or not whole):
        return [f"{told}: it would train on{after(heirs)}"]
    if not is_wanted and here != planned:
        return [f"{told}, but it is not among only_phases{after(heirs)}"]
    return []


def after(heirs):
    """In words: which phases have started from a phase."""
    return f"; {', '.join(heirs)} started from it" if heirs else ""
