"""Processes of the tests' server are as new ones: see tests/processes.py."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import python

RUN = Path(__file__).parent / "worker_run.py"
BOTH = pytest.mark.parametrize("kind", ["server", "real"])


def start(kind, *words, **options):
    """A process, begun: of the server, or a real one for comparison."""
    program = python() if kind == "server" else sys.executable
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([program, *map(str, words)], text=True, **options)


def finished(kind, *words, given=None, **options):
    """Exit code, output and errors of a process."""
    process = start(kind, *words, stdin=subprocess.PIPE, **options)
    output, errors = process.communicate(given, timeout=60)
    return process.returncode, output, errors


@BOTH
@pytest.mark.parametrize(
    "code, expected",
    [
        ("print('é'); import sys; print(2, file=sys.stderr)", (0, "é\n", "2\n")),
        ("import sys; sys.exit(3)", (3, "", "")),
        ("import sys; sys.exit('why')", (1, "", "why\n")),
        ("import os; print(1, flush=True); os._exit(75)", (75, "1\n", "")),
        ("import os; os.kill(os.getpid(), 9)", (-9, "", "")),
        ("import os; os.abort()", (-6, "", "")),
        ("import atexit; atexit.register(print, 'end'); print(1)", (0, "1\nend\n", "")),
        ("class A:\n def __del__(self): print('gone')\na = A()", (0, "gone\n", "")),
        ("print(input() + '!')", (0, "given!\n", "")),
    ],
)
def test_a_process_ends_as_it_would(kind, code, expected):
    assert finished(kind, "-c", code, given="given") == expected


@BOTH
def test_an_error_is_shown(kind):
    code, output, errors = finished(kind, "-c", "1 / 0")
    assert (code, output) == (1, "")
    assert errors.startswith("Traceback")
    assert errors.endswith("ZeroDivisionError: division by zero\n")


SHOW = """
import json, os, sys
shown = [__name__, sys.argv, sys.path[0], os.getcwd(), os.environ.get("A")]
print(json.dumps([*shown, globals().get("__file__")]))
"""


def test_a_script_a_module_and_code_see_what_they_would(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/show.py").write_text(SHOW)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "link.py").symlink_to("real/show.py")
    (tmp_path / "module.py").write_text(SHOW)
    lines = (
        ["link/show.py", "a"],
        ["link.py"],
        ["-m", "module", "b"],
        ["-c", SHOW, "c"],
    )
    for words in (*lines, ["-u", *lines[0]]):
        options = {"cwd": tmp_path, "env": {**os.environ, "A": "b"}}
        assert finished("server", *words, **options) == finished(
            "real", *words, **options
        )


def test_random_numbers_are_those_of_a_new_process():
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), "
    code += "torch.rand(()), torch.initial_seed())"
    drawn = [finished("server", "-c", code)[1].split() for _ in range(3)]
    assert [len(set(numbers)) for numbers in zip(*drawn)] == [3, 3, 3, 3]


def test_nothing_of_the_program_is_imported_and_no_thread_runs():
    code = "import os, sys; print(len(os.listdir('/proc/self/task')), "
    code += "'torch' in sys.modules, "
    code += "[name for name in sys.modules if name.startswith('hetero_brain')])"
    assert finished("server", "-c", code)[1] == "1 True []\n"


def test_files_have_their_numbers_and_there_are_no_others(tmp_path):
    code = "import os, sys; print(sorted(map(int, os.listdir('/proc/self/fd')))); "
    code += "os.write(int(sys.argv[1]), b'x')"
    with open(tmp_path / "file", "w") as file:
        number = fcntl.fcntl(file, fcntl.F_DUPFD, 50)
        options = {"pass_fds": [number]}
        _, output, errors = finished("server", "-c", code, number, **options)
    os.close(number)
    assert output == f"{[0, 1, 2, 3, number]}\n", errors  # 3 is that of the list itself
    assert (tmp_path / "file").read_text() == "x"


@BOTH
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signals_arrive(kind, name):
    code = "import signal, sys, time\n"
    code += f"signal.signal(signal.{name}, lambda *_: sys.exit(7))\n"
    code += "print('ready', flush=True)\n"
    code += "while True: time.sleep(0.1)"  # it may come just before a sleep, in vain
    process = start(kind, "-c", code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=30) == 7


@BOTH
def test_blocked_and_ignored_signals_are_passed_on(kind):
    def prepare():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); "
    code += "os.kill(os.getpid(), signal.SIGUSR2); print(*signal.sigpending())"
    result = finished(kind, "-c", code, preexec_fn=prepare)
    assert result == (0, f"{signal.SIGUSR1!s}\n", "")


def test_a_process_ends_with_its_client_that_is_killed():
    process = start(
        "server",
        "-c",
        "import os, time; print(os.getpid(), flush=True); time.sleep(60)",
    )
    child = Path("/proc", process.stdout.readline().strip())
    assert child.exists()
    process.kill()
    process.communicate(timeout=10)  # until the child has closed its output, too
    end = time.monotonic() + 10
    while child.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not child.exists()


@BOTH
@pytest.mark.parametrize("what", ["thread", "worker", "forkserver"])
def test_a_process_that_does_not_end_is_seen(kind, what, tmp_path):
    """A thread or worker that goes on keeps it, as it does elsewhere."""
    script = tmp_path / "hangs.py"
    script.write_text(
        "import multiprocessing, sys, threading, time\n"
        "if __name__ == '__main__':\n"
        "    method = 'forkserver' if sys.argv[1] == 'forkserver' else 'fork'\n"
        "    kinds = multiprocessing.get_context(method).Process, threading.Thread\n"
        "    kinds[sys.argv[1] == 'thread'](target=time.sleep, args=[60]).start()\n"
        "    print('over', flush=True)\n"
    )
    process = start(kind, script, what)
    assert process.stdout.readline() == "over\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1.5)
    process.kill()
    if what == "thread":  # a worker that sleeps holds the output a minute longer
        process.communicate(timeout=10)
    process.stdout.close()
    process.stderr.close()


def test_what_a_process_starts_comes_from_the_server():
    code = "import subprocess, sys; "
    code += "print(subprocess.run([sys.executable, '-c', sys.argv[1]]))"
    inner = "import sys; print('torch' in sys.modules); sys.exit(4)"
    _, output, _ = finished("server", "-u", "-c", code, inner)
    assert output.startswith("True\n") and "returncode=4" in output


def test_a_hash_seed_and_other_options_have_a_real_process():
    code = "import sys; print('torch' in sys.modules, hash('a'), sys.flags.isolated)"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    same = {finished(kind, "-c", code, env=environment) for kind in ("server", "real")}
    assert len(same) == 1
    assert finished("server", "-I", "-c", code)[1].split()[::2] == ["False", "1"]
