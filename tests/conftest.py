"""All tests of a session share a server of Python processes; see ``processes.py``."""

from tests import processes


def pytest_configure(config):
    """In the process that starts the others, or the only one."""
    if not hasattr(config, "workerinput"):
        processes.begin_session()


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        processes.end_session()
