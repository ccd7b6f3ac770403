"""What a run does before it trains: it imports what it needs, and says what it has to."""

import importlib.util
import logging
import sys

from hetero_brain.training import loggers


def test_nothing_is_said_of_a_missing_torchvision(monkeypatch, caplog):
    """SpeechBrain's loggers are imported once more, as at the start of a run."""
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "speechbrain.utils.train_logger")
    name = "hetero_brain.training.loggers_again"
    spec = importlib.util.spec_from_file_location(name, loggers.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "speechbrain.utils.train_logger" in sys.modules
    assert "torchvision" not in caplog.text
    assert not logging.getLogger("speechbrain.utils.train_logger").disabled
