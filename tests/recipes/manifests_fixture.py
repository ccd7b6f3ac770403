"""Manifests of the speech in this repository, for recipes that take manifests."""

import importlib.util
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[2] / "recipes/VoicePrompts"


def sample_manifests(folder):
    """Write ``train.csv``, ``dev.csv`` and ``test.csv`` of the sample to a folder."""
    spec = importlib.util.spec_from_file_location(
        "voice_prompts_prepare", RECIPE / "voice_prompts_prepare.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.prepare_voice_prompts(RECIPE / "sample", folder, ["en", "es", "fr"])
    for path in Path(folder).glob("*.csv"):
        text = path.read_text("utf-8").replace("{data_root}", str(RECIPE / "sample"))
        path.write_text(text, "utf-8")
