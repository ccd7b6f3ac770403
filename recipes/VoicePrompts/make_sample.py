"""Makes ``sample/``, which the demo and the tests use, from the whole data.

> python make_sample.py DATA_FOLDER

It takes prompts that have a transcript and last 1 to 10 s in all of the languages, in the
order of a hash of their names, until the folder has the intended size. It also includes
some of what the prepare script leaves out or does not transcribe. The samples are
lossless: 16-bit FLAC at the original 8 kHz.
"""

import hashlib
import shutil
import sys
from pathlib import Path

import soundfile
import voice_prompts_prepare as prepare

SAMPLE = Path(__file__).parent / "sample"
LANGUAGES = ("en", "es", "fr")
MAX_BYTES = 5_300_000
# Prompts that are left out or have no words. In this order: silence, two sound effects, a
# spelled letter, digits, words in brackets (es, then fr), two transcripts (es), and two
# without transcript (es, fr).
DIFFICULT = (
    "silence/1",
    "beep",
    "confbridge-join",
    "letters/w",
    "vm-advopts",
    "vm-tempgreetactive",
    "for",
    "digits/0",
    "dir-welcome",
)


def usable(name, language, audio, texts):
    """Whether a prompt has audio of 1 to 10 s and words in a language."""
    if name not in audio[language]:
        return False
    seconds, problem = prepare.inspect_audio(audio[language][name])
    prompt = texts[language].get(name.casefold(), ())
    words, _ = prepare.label(name, prompt, language, seconds)
    return not problem and 1 <= seconds <= 10 and bool(words)


def convert(name, language, audio):
    """Writes one prompt as FLAC if the language has it. Returns the size in bytes."""
    if name not in audio[language]:
        return 0
    target = SAMPLE / language / f"{name}.flac"
    target.parent.mkdir(parents=True, exist_ok=True)
    samples, rate = soundfile.read(audio[language][name], dtype="int16")
    soundfile.write(target, samples, rate, subtype="PCM_16")
    return target.stat().st_size


def main(data_folder):
    sources = prepare.find_sources(Path(data_folder), LANGUAGES)
    audio = {k: prepare.find_audio(sounds) for k, (sounds, _) in sources.items()}
    texts = {k: prepare.read_transcripts(text) for k, (_, text) in sources.items()}

    names = [
        name
        for name in audio["en"]
        if name not in DIFFICULT
        and all(usable(name, language, audio, texts) for language in LANGUAGES)
    ]
    names.sort(key=lambda name: hashlib.sha256(f"sample {name}".encode()).digest())
    for language in LANGUAGES:
        shutil.rmtree(SAMPLE / language, ignore_errors=True)
    chosen, size = list(DIFFICULT), 0
    for name in DIFFICULT:
        size += sum(convert(name, language, audio) for language in LANGUAGES)
    for name in names:
        if size > MAX_BYTES:
            break
        size += sum(convert(name, language, audio) for language in LANGUAGES)
        chosen.append(name)

    kept = {name.casefold() for name in chosen}
    for language, (_, transcript) in sources.items():
        lines = [
            line
            for line in prepare.read_lines(transcript)
            if line.partition(":")[0].casefold() in kept
        ]
        target = SAMPLE / language / f"core-sounds-{language}.txt"
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(
        f"{len(chosen)} of {len(names) + len(DIFFICULT)} prompts, {size} bytes of FLAC"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
