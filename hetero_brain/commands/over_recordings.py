"""What commands that take recordings do around their work."""

EXIT_CODE = """Exit code: 0; 1 if some recordings could not be read, which are named with
the reason on stderr, while the others are done all the same, or if nothing could be done.
"""


def over_recordings(args, check_output, load, work, output=None):
    """Give the recordings of a command line to a model.

    Arguments
    ---------
    args : argparse.Namespace
        With the options of :func:`~hetero_brain.data.recordings.add_arguments`.
    check_output : callable
        (recordings) → names of the files to write, if they go to a folder; raises an
        InputError if the results cannot be written.
    load : callable
        (device) → the model.
    work : callable
        (model, recordings, names, window_seconds, batch_seconds, progress) → None; tells
        ``progress`` what it has done, and what could not be read.
    output : str or Path
        The file or folder of the results; None: they are printed.

    Returns
    -------
    int
        The exit code of the command: 1 if a recording could not be read, else 0.

    Raises
    ------
    InputError
        Before the model is loaded: a word of the command line is wrong.
    """
    from ..data.progress import Progress
    from ..data.recordings import recordings
    from ..training.devices import usable_device

    rows, device = recordings(args), usable_device(args.device)
    names = check_output(rows)
    model, progress = load(device), Progress(rows)
    work(model, rows, names, args.window_seconds, args.batch_seconds, progress)
    progress.close(output)
    return 1 if progress.failed else 0
