"""``env.log``: the Python, packages, code and devices that a run uses."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch


def describe_environment():
    """Describe what a run uses, under the headings of SpeechBrain's ``env.log``.

    SpeechBrain asks the first ``pip`` in the path, which takes 1 to 2 s at each start and
    may belong to another Python, and takes the Git revision of the current folder.

    Returns
    -------
    str
    """
    facts = [d.metadata for d in metadata.distributions()]  # read anew at each access
    packages = {f"{of['Name']}=={of['Version']}" for of in facts}
    devices = range(torch.cuda.device_count())
    cuda = [f"{torch.version.cuda or torch.version.hip}"] if devices else ["none"]
    parts = {
        "Python": [sys.version],
        "Installed packages": sorted(packages, key=str.lower),
        "Git revision of hetero_brain": [git_revision()],
        "CUDA or ROCm": cuda + [torch.cuda.get_device_name(i) for i in devices],
    }
    return "\n".join("\n".join([f"{name}:", *parts[name], ""]) for name in parts)


def git_revision():
    """The commit of this code, with ``-dirty`` if it has been changed since."""
    folder = Path(__file__).parent
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        tracked = ["git", "-C", folder, "ls-files", "--error-unmatch", __file__]
        subprocess.run(tracked, capture_output=True, check=True)
        done = subprocess.run(command, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "none: it is not run from a clone"
    return done.stdout.strip()
