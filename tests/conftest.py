"""All tests of a session share a server of Python processes; see ``processes.py``."""

import gc
import multiprocessing.spawn
import signal
import sys
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

from tests import processes

ROOT = Path(__file__).parent
# Those that take longest begin first, so that no process is left with one of them.
FIRST = ("slurm/test_slurm.py", "recipes/test_commands.py", "unit/test_benchmarks.py")
FIRST += ("unit/test_preemption.py", "unit/test_distributed.py", "unit/test_resume.py")
APART = ("tests/recipes/test_commands.py",)


class ByFile(LoadScopeScheduling):
    """Gives a file of tests to one process, as they share what they prepare; but those of
    :data:`APART` one by one, as each takes long."""

    def _split_scope(self, nodeid):
        file = nodeid.split("::", 1)[0]
        return nodeid if file in APART else file


def pytest_xdist_make_scheduler(config, log):
    """See :class:`ByFile`; xdist's own groups do nothing under pytest 9."""
    return ByFile(config, log)


def pytest_configure(config):
    """In the process that starts the others, or the only one."""
    # A process that was started in the background ignores SIGINT, and so would all that
    # it starts, those included that tests send this signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        sys.executable = config.workerinput["executable"]
        multiprocessing.spawn.set_executable(sys.executable)
        return
    processes.begin_session()
    if config.option.tx:  # those that run tests have the libraries from the start, too
        config.option.tx = [f"popen//python={processes.python()}"] * len(
            config.option.tx
        )


def pytest_configure_node(node):
    """Tell a process that runs tests which Python is the real one."""
    node.workerinput["executable"] = sys.executable


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        processes.end_session()


def pytest_collection_modifyitems(items):
    """Put the files of :data:`FIRST` first, and READMEs first of theirs."""
    ranks = {ROOT / path: rank for rank, path in enumerate(FIRST)}

    def rank(item):
        readme = "readme_commands_run" in item.name
        return ranks.get(item.path, len(ranks)), not readme

    items.sort(key=rank)


def pytest_collection_finish():
    """Have the garbage collector leave alone what is imported, which lives to the end."""
    gc.collect()
    gc.freeze()
