"""Python processes that start in a moment.

A process of a recipe imports torch, SpeechBrain and lhotse before it does anything else.
That takes five seconds of a core, and the tests start some hundreds of processes.
:func:`python` gives them an interpreter whose processes are forked from one that has
imported these libraries already, and has done nothing else. Three kinds of process take
part:

- the *server*, one for all workers of a test session. It starts when a test first asks
  for it, and ends with the session;
- a *client*, which stands where Python would: a test, bash, torchrun or an experiment
  starts it, sends it signals and waits for it. It hands its command line, environment,
  folder, open files and blocked signals to the server, passes signals on, and ends as its
  child ends, by the same exit code or signal. If it is killed, so is the child;
- a *child* of the server for each client. It runs the program as Python would. Everything
  of ``hetero_brain`` and of the program is imported by the child itself, random numbers
  are those of a new process, and a thread or a loader worker that does not end keeps it,
  and the client, from ending.

Processes that a child starts by ``sys.executable`` come from the server, too: ranks,
steps of an experiment, and the server of loader workers that ``multiprocessing`` starts.
So do the processes in which pytest-xdist runs the tests; theirs is the real interpreter.

What differs from a real process: the child is no descendant of its client, and is in a
session of its own; it has one OpenMP thread, whatever its environment says; its hash seed
is that of the server; a client that is stopped (SIGSTOP) does not stop it; libraries, and
what only they hold, are not taken to pieces at its end; torchrun does not know the names
of its own methods. What is tested about these, and
one run of every kind, starts ``sys.executable`` of the tests instead. Command lines that
:func:`parsed` does not know are given to the real interpreter, as are processes with a
``PYTHONHASHSEED``.
"""

import array
import marshal
import os
import signal
import socket
import sys

# Only what starts fast is imported up here, where clients run.

FOLDER = "TESTS_PROCESSES_FOLDER"  # environment variable: the session's folder
OWNER = "TESTS_PROCESSES_OWNER"  # environment variable: the process that ends last
SOCKET = "socket"  # its name in that folder
FLAGS = {"-u", "-B"}  # of Python, that are known here
HEADER, MOST_FILES = 8, 253  # bytes before a request; files that one message may carry
PASSED_ON = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT")
LIBRARIES = (
    "torch torch._dynamo torch.distributed.nn torch.distributed.run torchaudio "
    "torch.utils.tensorboard torch.utils.serialization.config "
    "scipy.cluster.vq scipy.signal matplotlib.backends.backend_agg PIL.PngImagePlugin "
    "matplotlib.pyplot lhotse lhotse.recipes lhotse.kaldi transformers.modeling_utils "
    "transformers.models.wav2vec2.modeling_wav2vec2 "
    "sentencepiece soundfile babel.core fontTools.unicodedata concurrent.futures.process "
    "multiprocessing.forkserver multiprocessing.resource_tracker unittest.mock xml.etree "
    "speechbrain speechbrain.augment.freq_domain speechbrain.dataio.batch "
    "speechbrain.decoders.ctc speechbrain.lobes.features "
    "speechbrain.lobes.models.transformer.Conformer "
    "speechbrain.lobes.models.transformer.TransformerASR speechbrain.nnet.losses "
    "speechbrain.utils.edit_distance speechbrain.utils.epoch_loop "
    "speechbrain.utils.train_logger "
    "tensorboard.backend.event_processing.event_accumulator"
).split()

# ------------------------------------------------------------------------ of the tests


def begin_session():
    """Make the folder of a test session, of which this process is the last to end."""
    import tempfile

    os.environ[FOLDER] = tempfile.mkdtemp(prefix="tests", dir="/tmp")  # a short path
    os.environ[OWNER] = str(os.getpid())


def end_session():
    """Remove the folder of the session, without which the server ends."""
    import shutil

    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)


def python():
    """The path of the interpreter; the folder it is in has a ``torchrun``, too.

    The first call of a session starts the server, and waits until it is ready.
    """
    import fcntl
    import subprocess
    import time

    folder = os.environ[FOLDER]
    path = f"{folder}/bin/python"
    with open(f"{folder}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            return path
        output = open(f"{folder}/server.txt", "w")  # which shows if it does not start
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", folder, os.environ[OWNER]],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        while not os.path.exists(f"{folder}/{SOCKET}"):
            assert server.poll() is None, open(output.name).read()
            time.sleep(0.05)
        os.makedirs(f"{folder}/bin")
        script(
            f"{folder}/bin/torchrun",
            '"$(dirname "$0")/python"',
            "-m torch.distributed.run",
        )
        script(path, sys.executable, f"-IS {__file__} run {folder}/{SOCKET}")
    return path


def script(path, program, words):
    """Write a shell script that is replaced by a program, with words before its own."""
    with open(path, "w") as file:
        file.write(f'#!/bin/sh\nexec {program} {words} "$@"\n')
    os.chmod(path, 0o755)


# ---------------------------------------------------------------------------- a client


def parsed(argv):
    """What a command line of Python asks for.

    Returns
    -------
    tuple or None
        The flags, of ``-u`` and ``-B``; ``"-m"``, ``"-c"`` or ``"file"``; the module,
        code or path; the words behind it. None for what is left to a real interpreter:
        all other command lines, and what needs no library.
    """
    n_flags = next((i for i, word in enumerate(argv) if word not in FLAGS), len(argv))
    flags, words = argv[:n_flags], argv[n_flags:]
    if len(words) > 1 and words[0] in ("-m", "-c"):
        if words[1].startswith("from multiprocessing.resource_tracker "):
            return None
        return flags, words[0], words[1], words[2:]
    if words and words[0][:1] != "-" and os.path.isfile(words[0]):
        return flags, "file", words[0], words[1:]
    return None


def run(path, argv):
    """A client: have a child of the server run a command line, and end as that ends."""
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    files = [number for number in files if is_open(number)]  # all but that of the list
    program = parsed(argv)
    if program is None or "PYTHONHASHSEED" in os.environ or len(files) > MOST_FILES:
        os.execv(sys.executable, [sys.executable, *argv])
    blocked = [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))]
    ignored = [
        s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN
    ]
    request = marshal.dumps(
        (program, dict(os.environ), os.getcwd(), files, blocked, [*map(int, ignored)])
    )
    # Those that are ignored here, too: a rank of torchrun begins so, and then listens.
    passed_on = {getattr(signal, name) for name in PASSED_ON}
    # They wait until it is known where they go.
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
    connection.sendmsg([len(request).to_bytes(HEADER)], [rights])
    connection.sendall(request)
    for number in files:
        os.close(number)  # or whoever waits for its end would wait for this process
    child = int.from_bytes(connection.recv(HEADER, socket.MSG_WAITALL))
    for number in passed_on:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    status = int.from_bytes(connection.recv(HEADER, socket.MSG_WAITALL))
    if not os.WIFSIGNALED(status):
        os._exit(os.WEXITSTATUS(status))
    import resource

    resource.setrlimit(
        resource.RLIMIT_CORE, (0, 0)
    )  # the child has left one, if wanted
    number = os.WTERMSIG(status)
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)


def is_open(number):
    """Whether this process has a file of this number."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


# -------------------------------------------------------------------------- the server


def serve(folder, owner):
    """Import the libraries, then fork a child for each client.

    Arguments
    ---------
    folder : str
        Where the socket is made.
    owner : int
        The process with which the server ends, and all of its children.

    Returns
    -------
    socket.socket
        In a child: the connection to its client.
    """
    import atexit
    import ctypes
    import gc
    import importlib
    import selectors
    import threading
    import weakref

    for name in LIBRARIES:
        importlib.import_module(name)
    # torchrun notes the method of each event. To find it, it looks through all modules.
    rendezvous = sys.modules["torch.distributed.elastic.rendezvous.dynamic_rendezvous"]
    rendezvous.get_method_name = lambda depth=2: "unknown"
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    atexit.register(leave_alone, libraries := third_party_modules())
    ctypes.pythonapi.Py_IncRef(ctypes.py_object([*libraries.values()]))
    for finalizer in weakref.finalize._registry:  # of libraries
        finalizer.atexit = False
    libc = ctypes.CDLL(None)
    libc.on_exit(libc._exit, None)  # before the destructors of C++ libraries
    gc.collect()
    gc.freeze()  # or the first collection of each child would copy all memory
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/{SOCKET}.new")
    listener.listen(1024)
    os.rename(f"{folder}/{SOCKET}.new", f"{folder}/{SOCKET}")
    ends = selectors.DefaultSelector()  # of processes; and who wants to begin one
    ends.register(listener, selectors.EVENT_READ)
    ends.register(os.pidfd_open(owner), selectors.EVENT_READ, "owner")
    alive = {}  # child → its connection, and what is closed when it has ended
    while True:
        for key, _ in ends.select():
            if key.data is None:
                connection, _ = listener.accept()
                # A child has to ignore some signals before it receives the first.
                before = signal.pthread_sigmask(
                    signal.SIG_BLOCK, signal.valid_signals()
                )
                if not (child := os.fork()):
                    listener.close()
                    ends.close()
                    return connection
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                connection.sendall(child.to_bytes(HEADER))
                watched = [(child, "child"), (client_of(connection), "client")]
                watched = [(os.pidfd_open(pid), who) for pid, who in watched]
                for file, who in watched:
                    ends.register(file, selectors.EVENT_READ, (who, child))
                alive[child] = connection, [file for file, _ in watched]
                continue
            if key.data == "owner":
                for child in alive:
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            who, child = key.data
            if child not in alive:  # it and its client have ended at once
                continue
            if who == "client":
                ends.unregister(key.fileobj)
                os.kill(child, signal.SIGKILL)
                continue
            _, status = os.waitpid(child, 0)
            connection, files = alive.pop(child)
            try:
                connection.sendall(status.to_bytes(HEADER))
            except BrokenPipeError:  # its client has ended
                pass
            connection.close()
            for file in files:
                if file in ends.get_map():
                    ends.unregister(file)
                os.close(file)


def third_party_modules():
    """Name → module of all that is imported, but for the standard library."""
    named = sys.modules.items()
    mine = {*sys.stdlib_module_names, "__main__", "tests"}
    return {name: m for name, m in named if name.split(".")[0] not in mine}


def leave_alone(modules):
    """As a child ends, the last of ``atexit``: Python is not to take libraries to pieces.

    Doing so would copy all memory that the child shares with the server, which takes
    half a second. Everything that is the program's own is taken to pieces as always.
    """
    for name in modules:
        sys.modules.pop(name, None)


class LastObject:
    """Ends the process when Python deletes it, which is after the modules of the program.

    What is left then are modules that others still refer to, and the strings that Python
    has interned. To delete them takes a sixth of a second.
    """

    def __init__(self):
        import builtins
        import gc

        builtins.last_object = self  # removed from there behind the other modules
        self.collect, self.exit = gc.collect, os._exit  # no globals are left by then
        self.status, self.files = 0, (sys.stdout, sys.stderr)

    def __del__(self):
        self.collect()
        for file in self.files:
            if file and not file.closed:
                file.flush()
        self.exit(self.status)

    @classmethod
    def ends(cls, main):
        """Call a program's main function, and have the process end as it asks to."""
        try:
            main()
            cls()
        except SystemExit as end:
            last = cls()
            if end.code is not None:
                last.status = end.code & 0xFF if isinstance(end.code, int) else 1
            raise


def client_of(connection):
    """The process at the other end of a connection."""
    return int.from_bytes(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder
    )


# --------------------------------------------------------------------------- its child


def become(connection):
    """In a child of the server: be as a new process with the request of a client.

    Returns
    -------
    tuple
        What to run, as of :func:`parsed`.
    """
    import multiprocessing.process
    import multiprocessing.spawn
    import tempfile

    import numpy as np
    import torch

    os.setsid()
    header, files, _, _ = socket.recv_fds(connection, HEADER, MOST_FILES)
    size, request = int.from_bytes(header), b""
    while len(request) < size:
        request += connection.recv(size - len(request))
    program, environment, folder, numbers, blocked, ignored = marshal.loads(request)
    connection.detach()  # closed here, with all that is the server's
    take_files(dict(zip(numbers, files)))
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    paths = sys.path[1 + len(search_path()) :]
    shim = f"{os.environ[FOLDER]}/bin/python"
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = ["", *search_path(), *paths]
    sys.executable = shim
    multiprocessing.spawn.set_executable(shim)
    multiprocessing.process.ORIGINAL_DIR = folder
    tempfile.tempdir = None
    np.random.seed()  # Python's own are drawn anew by themselves
    torch.default_generator.seed()
    flags, *program = program
    sys.dont_write_bytecode = "-B" in flags or bool(
        os.environ.get("PYTHONDONTWRITEBYTECODE")
    )
    if "-u" in flags:
        unbuffer()
    return program


def take_files(files):
    """Have the files of a dict (number → file as received), and no other."""
    import fcntl

    above = max(files) + 1
    kept = {
        number: fcntl.fcntl(file, fcntl.F_DUPFD, above)
        for number, file in files.items()
    }
    os.closerange(0, above)
    for number, file in kept.items():
        os.dup2(file, number)
    os.closerange(above, max(kept.values()) + 1)


def search_path():
    """The folders in PYTHONPATH, as Python has them in ``sys.path``."""
    folders = os.environ.get("PYTHONPATH", "")
    return [os.path.abspath(folder) for folder in folders.split(os.pathsep) if folder]


def unbuffer():
    """Have output written at once, as by ``python -u``."""
    for name in ("stdout", "stderr"):
        getattr(sys, name).reconfigure(write_through=True, line_buffering=True)


def execute(kind, what, words):
    """Run a module, code or a file as Python's main program."""
    import importlib.machinery
    import runpy
    import types

    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__builtins__ = __builtins__
    if kind == "-m":
        sys.argv, sys.path[0] = ["-m", *words], os.getcwd()
        runpy._run_module_as_main(what)
    elif kind == "-c":
        sys.argv = ["-c", *words]
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [what, *words]
        sys.path[0] = os.path.dirname(os.path.realpath(what))
        main.__file__, main.__cached__ = os.path.abspath(what), None
        main.__loader__ = importlib.machinery.SourceFileLoader(
            "__main__", main.__file__
        )
        with open(what, "rb") as file:
            code = compile(file.read(), main.__file__, "exec")
        exec(code, main.__dict__)


if __name__ == "__main__":
    sys.modules["tests.processes"] = sys.modules["__main__"]  # which lives as long
    if sys.argv[1] == "run":
        run(sys.argv[2], sys.argv[3:])
    else:
        program = become(serve(sys.argv[2], int(sys.argv[3])))
        LastObject.ends(lambda: execute(*program))
