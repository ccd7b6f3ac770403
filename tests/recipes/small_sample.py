"""A part of the speech in this repository, for runs whose figures prove nothing."""

from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[2] / "recipes/VoicePrompts/sample"
EVERY = 3  # prompts of which one is taken: some are left of every language and split


def small_sample(folder):
    """Link every third prompt of VoicePrompts' sample, and all transcripts, in a folder
    of the same layout. Returns the folder."""
    for language in ("en", "es", "fr"):
        (Path(folder) / language).mkdir(parents=True)
        prompts = sorted((SAMPLE / language).rglob("*.flac"))[::EVERY]
        for path in (*prompts, SAMPLE / f"{language}/core-sounds-{language}.txt"):
            link = Path(folder) / path.relative_to(SAMPLE)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return Path(folder)
