"""Prepares Asterisk's core sound prompts: short telephone announcements, read by
one voice per language, most of them with a transcript.

The data are sampled at 8 kHz, and may be in either of two layouts:

- Debian packages ``asterisk-core-sounds-XX-wav`` (audio) and
  ``asterisk-core-sounds-XX`` (transcripts), installed (``data_folder`` is ``/``)
  or unpacked by ``dpkg -x``:
  ``usr/share/asterisk/sounds/en_US_f_Allison/**/*.wav`` and
  ``usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz``;
- upstream's ``asterisk-core-sounds-XX-wav-current.tar.gz``, each unpacked in a
  folder of its language: ``en/**/*.wav`` and ``en/core-sounds-en.txt``.

Audio may be ``.flac`` or ``.wav``, and transcripts may be plain or gzipped.

Empty, damaged or silent audio, tones and sound effects are left out. Speech whose text
is missing or may not be what is said is kept without a transcript, for pre-training; the
rules are in ``prompt_text``.

To run it:
> python voice_prompts_prepare.py DATA_FOLDER SAVE_FOLDER --languages en es fr
"""

import hashlib
import logging
import re
import sys
from pathlib import Path

import numpy as np

from hetero_brain.data import manifest
from hetero_brain.data.audio import AudioFile
from hetero_brain.data.corpora import command_line
from hetero_brain.data.corpora.gzip_files import read_bytes
from hetero_brain.data.corpora.headers import read_header
from hetero_brain.data.corpora.summary import Summary
from hetero_brain.errors import InputError, MissingData, meant

sys.path.append(str(Path(__file__).resolve().parent))
from prompt_text import is_sound_effect, label  # noqa: E402

logger = logging.getLogger(__name__)

VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
HOW_TO_GET = """\
Either unpack the Debian packages asterisk-core-sounds-XX-wav (audio) and
asterisk-core-sounds-XX (transcripts): `apt-get download PACKAGE`, then
`dpkg -x FILE.deb DATA_FOLDER`. (In containers `apt-get install` often drops
/usr/share/doc, where the transcripts are.) Or unpack each
asterisk-core-sounds-XX-wav-current.tar.gz from
https://downloads.asterisk.org/pub/telephony/sounds/ in DATA_FOLDER/XX."""
SPLITS = ("train", "dev", "test")
AUDIO_SUFFIXES = (".flac", ".wav")  # of a prompt that has both, the WAV is taken
SILENCE_DBFS = -60.0
# Prompts whose names differ only in this usually have the same text.
VARIANT = re.compile(r"^(conf|confbridge|pbx|queue|vm)-|-(in|out|a|b|c)$")


def prepare_voice_prompts(data_folder, save_folder, languages=tuple(VOICES)):
    """Writes ``train.csv``, ``dev.csv`` and ``test.csv``, and nothing else; the last two
    only if there are rows for them.

    Call it on the main process only (``run_on_main``). It reads all of the data each time
    it runs, which takes seconds, and does not touch a manifest that would not change.

    Arguments
    ---------
    data_folder : str or Path
        The folder of the prompts; ``{data_root}`` in the manifests.
    save_folder : str or Path
        The folder for the manifests.
    languages : sequence of str
        Codes from ``VOICES``; they are the domains of the manifests.

    Returns
    -------
    Summary
        How much each manifest holds; the table is also logged.

    Raises
    ------
    InputError
        If a language is unknown.
    MissingData
        If audio or transcripts are missing; the message lists all of them.
    """
    data_folder = Path(data_folder)
    sources = find_sources(data_folder, languages)
    rows = {split: [] for split in SPLITS}
    summary = Summary()
    for language, (sounds, transcript) in sources.items():
        texts = read_transcripts(transcript)
        for name, path in find_audio(sounds).items():
            split = split_of(name)
            prompt = texts.get(name.casefold(), ())
            seconds, problem = inspect_audio(path)
            if is_sound_effect(name, prompt):
                problem = problem or "sound effect"
            if problem:
                summary.leave_out(language, split, problem)
                continue
            words, no_words = label(name, prompt, language, seconds)
            row = {
                "ID": f"{language}/{name}",
                "duration": seconds,
                "wav": f"{{data_root}}/{path.relative_to(data_folder)}",
                "domain": language,
                "spk_id": VOICES[language],
                "wrd": words,
            }
            summary.add_row(split, row, no_words)
            rows[split].append(row)
    for split in SPLITS:
        write = manifest.write if split == "train" else manifest.write_if_any
        write(Path(save_folder) / f"{split}.csv", rows[split])
    logger.info("Voice prompts in %s\n%s", save_folder, summary.table())
    return summary


def find_sources(data_folder, languages):
    """Finds the audio folder and the transcript of every language.

    Arguments
    ---------
    data_folder : Path
        The folder of the prompts, in either layout.
    languages : sequence of str
        Codes from ``VOICES``.

    Returns
    -------
    dict
        {language: (audio folder, transcript file)}, in the order of ``languages``.

    Raises
    ------
    InputError, MissingData
        See ``prepare_voice_prompts``.
    """
    unknown = [language for language in languages if language not in VOICES]
    if unknown or not languages:
        near = meant(unknown, VOICES)
        raise InputError(
            f"languages (pretrain_domains or finetune_domains) {unknown} are unknown; "
            f"known: {list(VOICES)}{near}"
        )
    if not data_folder.is_dir():
        raise MissingData(f"{data_folder}: no such folder (data_folder)")
    sources, missing = {}, []
    for language in languages:
        name = f"core-sounds-{language}.txt"
        share, doc = data_folder / "usr/share", f"doc/asterisk-core-sounds-{language}"
        audio = [
            share / "asterisk/sounds" / VOICES[language],
            data_folder / language,
        ]
        text = [
            folder / file
            for folder in (share / doc, data_folder / language)
            for file in (f"{name}.gz", name)
        ]
        found_audio = [path for path in audio if find_audio(path)]
        found_text = [path for path in text if path.is_file()]
        for what, candidates, found in (
            ("audio (.wav or .flac) below", audio, found_audio),
            ("transcript", text, found_text),
        ):
            if not found:
                looked = " or ".join(map(str, candidates))
                missing.append(f"  {language}: no {what} {looked}")
        if found_audio and found_text:
            sources[language] = (found_audio[0], found_text[0])
    if missing:
        heading = f"Asterisk's voice prompts are incomplete in {data_folder}:"
        raise MissingData("\n".join([heading, *missing, HOW_TO_GET]))
    return sources


def find_audio(folder):
    """Finds the prompts below a folder: {name: path}, sorted by name. The name of
    ``folder/digits/1.wav`` is ``digits/1``."""
    found = {}
    for suffix in AUDIO_SUFFIXES:
        for path in folder.rglob(f"*{suffix}"):
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return dict(sorted(found.items()))


def read_lines(path):
    """The lines of a plain or gzipped UTF-8 file with any line ends. A byte-order mark is
    dropped, and bytes that are not UTF-8 become U+FFFD."""
    return read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()


def read_transcripts(path):
    """Reads lines of the form ``name: text``; lines that begin with ``;`` are comments.

    Arguments
    ---------
    path : Path
        A file for ``read_lines``.

    Returns
    -------
    dict
        {name in lower case: the set of its texts}. The case of names may differ from that
        of the audio files, and a name that occurs twice may have two texts.
    """
    texts = {}
    for line in read_lines(path):
        name, colon, text = line.partition(":")
        if colon and not name.startswith(";"):
            texts.setdefault(name.strip().casefold(), set()).add(text.strip())
    return texts


def inspect_audio(path):
    """Decodes one file.

    Arguments
    ---------
    path : Path
        WAV or FLAC.

    Returns
    -------
    seconds : float
        Its duration.
    problem : str or None
        Why it cannot be used.
    """
    header = read_header(path)
    if header.problem or header.cut:
        return 0.0, header.problem or "cut short"
    with AudioFile(path) as file:
        samples = file.segment(0, header.frames)
    level = 10 * np.log10(np.mean(np.square(samples)) + 1e-20)
    return header.frames / header.rate, "silence" if level < SILENCE_DBFS else None


def split_of(name):
    """The split of a prompt, the same in every language: 70 % train, 15 % dev, 15 % test.

    It depends on a hash of the name without what marks a variant, so that prompts with
    the same text, such as ``minutes`` and ``vm-minutes``, or ``confbridge-mute-in`` and
    ``confbridge-mute-out``, are in the same split."""
    stem = VARIANT.sub("", name.casefold())
    digest = hashlib.sha256(stem.encode()).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    return "train" if percent < 70 else "dev" if percent < 85 else "test"


def main():
    parser = command_line.argument_parser(__doc__, "data_folder", "save_folder")
    parser.add_argument("--languages", nargs="+", default=list(VOICES))
    command_line.run(prepare_voice_prompts, parser)


if __name__ == "__main__":
    main()
