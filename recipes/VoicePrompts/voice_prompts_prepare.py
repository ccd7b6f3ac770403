"""Prepares Asterisk's core sound prompts: short telephone announcements, read by
one voice per language, most of them with a transcript.

The data, 8 kHz, in either of two layouts:

- Debian packages ``asterisk-core-sounds-XX-wav`` (audio) and
  ``asterisk-core-sounds-XX`` (transcripts), installed (``data_folder`` is ``/``)
  or unpacked by ``dpkg -x``:
  ``usr/share/asterisk/sounds/en_US_f_Allison/**/*.wav`` and
  ``usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz``;
- upstream's ``asterisk-core-sounds-XX-wav-current.tar.gz``, each unpacked in a
  folder of its language: ``en/**/*.wav`` and ``en/core-sounds-en.txt``.

``.flac`` does as well as ``.wav``, and a transcript may be plain or gzipped.

What is left out: empty, damaged or silent audio, tones and sound effects.
What is kept without a transcript, for pre-training: speech whose text is absent
or not certainly what is said. ``label`` has the rules.

Run it by itself:
> python voice_prompts_prepare.py DATA_FOLDER SAVE_FOLDER --languages en es fr
"""

import argparse
import gzip
import hashlib
import logging
import re
import unicodedata
import zlib
from pathlib import Path

import numpy as np

from hetero_brain.data import manifest
from hetero_brain.data.audio import AudioFile
from hetero_brain.data.corpora.headers import read_header
from hetero_brain.data.corpora.summary import Summary
from hetero_brain.errors import InputError, MissingData, reported

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
AUDIO_SUFFIXES = (".flac", ".wav")  # the last one wins

# Sound effects in every language, though some transcripts do not say so.
SOUND_EFFECTS = {
    "ascending-2tone",
    "beep",
    "beeperr",
    "confbridge-join",
    "confbridge-leave",
    "descending-2tone",
    "tt-monkeys",
}
SILENCE_DBFS = -60.0
# The fastest true transcripts reach 22; what is beyond is text that is not said.
MAX_CHARACTERS_PER_SECOND = 25.0
# Prompts that differ in no more than this mostly have the same text.
VARIANT = re.compile(r"^(conf|confbridge|pbx|queue|vm)-|-(in|out|a|b|c)$")

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz'",
    "es": "abcdefghijklmnopqrstuvwxyz",
    "fr": "abcdefghijklmnopqrstuvwxyzàâæçéèêëîïôœùûüÿ'",
    "it": "abcdefghijklmnopqrstuvwxyzàèéìíòóùú'",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
}
# Any other letter by itself is spelled: one sees "w" and hears "double you".
ONE_LETTER_WORDS = {
    "en": "ai",
    "es": "aeouy",
    "fr": "aày",
    "it": "aeèioò",
    "ru": "авикосуя",
}
QUOTES = str.maketrans(dict.fromkeys("‘’ʼ`´", "'"))
PUNCTUATION = str.maketrans(dict.fromkeys('.,;:!?¡¿…"“”„«»-‐–—', " "))
# The Spanish transcripts write "numero" here and "número" there, and "contrasena"
# always: without accents, tilde and diaeresis there is one spelling a word. So
# with Russian "решетка" and "решётка".
ONE_SPELLING = {
    "es": str.maketrans("áéíóúüñ", "aeiouun"),
    "ru": str.maketrans("ё", "е"),
}


def prepare_voice_prompts(data_folder, save_folder, languages=tuple(VOICES)):
    """Writes ``train.csv``, ``dev.csv`` and ``test.csv``, nothing else; the last two
    only if there are rows for them.

    Call it on the main process only (``run_on_main``). It always looks at all
    of the data, which takes seconds, and leaves a manifest that would not change
    as it is.

    Arguments
    ---------
    data_folder : str or Path
        Where the prompts are; ``{data_root}`` in the manifests.
    save_folder : str or Path
        Where the manifests go.
    languages : sequence of str
        Codes from ``VOICES``; the domains of the manifests.

    Returns
    -------
    hetero_brain.data.corpora.summary.Summary
        Logged as a table, too.

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
            seconds, fault = inspect_audio(path)
            if is_sound_effect(name, prompt):
                fault = fault or "sound effect"
            if fault:
                summary.leave_out(language, split, fault)
                continue
            words, fault = label(name, prompt, language, seconds)
            if fault:
                summary.untranscribed(language, split, fault)
            summary.add(language, split, seconds, bool(words))
            rows[split].append(
                {
                    "ID": f"{language}/{name}",
                    "duration": seconds,
                    "wav": f"{{data_root}}/{path.relative_to(data_folder)}",
                    "domain": language,
                    "spk_id": VOICES[language],
                    "wrd": words,
                }
            )
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
        In either layout.
    languages : sequence of str
        Codes from ``VOICES``.

    Returns
    -------
    dict
        {language: (audio folder, transcript file)}, in the order given.

    Raises
    ------
    InputError, MissingData
        As ``prepare_voice_prompts``.
    """
    unknown = [language for language in languages if language not in VOICES]
    if unknown or not languages:
        raise InputError(f"languages {unknown} are unknown; known: {list(VOICES)}")
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
        heading = f"Asterisk's voice prompts are not whole in {data_folder}:"
        raise MissingData("\n".join([heading, *missing, HOW_TO_GET]))
    return sources


def find_audio(folder):
    """The prompts below a folder, as {name: path}, sorted by name; the name of
    ``folder/digits/1.wav`` is ``digits/1``."""
    found = {}
    for suffix in AUDIO_SUFFIXES:
        for path in folder.rglob(f"*{suffix}"):
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return dict(sorted(found.items()))


def read_lines(path):
    """The lines of a plain or gzipped UTF-8 file, whatever ends them; a byte-order
    mark is dropped, and what is not UTF-8 becomes U+FFFD."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            told = f"{path} is cut short or damaged ({error}): get it again"
            raise ValueError(told) from error
    return content.decode("utf-8-sig", errors="replace").splitlines()


def read_transcripts(path):
    """Reads ``name: text`` lines; those that open with ``;`` are comments.

    Arguments
    ---------
    path : Path
        As ``read_lines`` takes it.

    Returns
    -------
    dict
        {case-folded name: the set of its texts}. Names differ from those of the
        files in case; a name that occurs twice may have two texts.
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
    float
        Seconds.
    str or None
        Why it is of no use.
    """
    header = read_header(path)
    if header.problem or header.cut:
        return 0.0, header.problem or "cut short"
    with AudioFile(path) as file:
        samples = file.segment(0, header.frames)
    level = 10 * np.log10(np.mean(np.square(samples)) + 1e-20)
    return header.frames / header.rate, "silence" if level < SILENCE_DBFS else None


def is_sound_effect(name, texts):
    """Whether a prompt is no speech: by its name, or because all that its
    transcript has is in brackets, as ``[ascending tones]``."""
    return (
        name in SOUND_EFFECTS
        or name.startswith("silence/")
        or any(re.fullmatch(r"\[.*\]|\(.*\)|<.*>", text) for text in texts)
    )


def label(name, texts, language, seconds):
    """What is certainly said in a prompt.

    Beside the rules of ``normalise``: a name of two different texts has none; in
    ``letters/`` one letter stands for its name ("w" for "double you"); and nobody
    says more than ``MAX_CHARACTERS_PER_SECOND``.

    Arguments
    ---------
    name : str
        The prompt, as ``letters/a``.
    texts : collection of str
        Its transcripts.
    language : str
        A code from ``VOICES``.
    seconds : float
        Length of the audio.

    Returns
    -------
    str
        Normalised words, or "".
    str or None
        Why there are none.
    """
    if not texts:
        return "", "no transcript"
    if len(texts) > 1:
        return "", "two transcripts"
    words, fault = normalise(*texts, language)
    if name.startswith("letters/") and len(words) == 1:
        return "", "spelled letters"
    if len(words) > MAX_CHARACTERS_PER_SECOND * seconds:
        return "", "text too long for the audio"
    return words, fault


def normalise(text, language):
    """Lower-case words without punctuation, or the reason why the text does not
    tell what is said.

    1. NFC; typographic apostrophes become ``'``.
    2. Brackets without a letter, as in ``at [@]``, are notes, and go. With a
       letter, as in ``[quello] non è`` or ``Pour (emphase)``, they may be spoken
       or not: no transcript.
    3. No transcript if the line runs on into the next prompt, or has digits,
       symbols that stand for words, dots inside words (``www.asterisk.org``,
       ``A.M.``), or accented letters that became ``?``.
    4. Lower case; apostrophes stay within words, all other punctuation and
       hyphens become spaces; one spelling a word (see ``ONE_SPELLING``).
    5. No transcript if a letter is not of the language's alphabet, or stands
       alone and is no word.

    Arguments
    ---------
    text : str
        A transcript.
    language : str
        A code from ``VOICES``.

    Returns
    -------
    str
        Words, or "".
    str or None
        Why there are none.

    Example
    -------
    >>> normalise("C’è un altro partecipante.", "it")
    ("c'è un altro partecipante", None)
    >>> normalise("Press 1 for", "en")
    ('', 'digits')
    """
    text = unicodedata.normalize("NFC", text).translate(QUOTES)
    text = re.sub(r"\[[^\w\]]*\]|\([^\w)]*\)|<[^\w>]*>", " ", text)
    if re.search(r"\w-[\w-]+:", text):
        return "", "two prompts in one line"
    if re.search(r"\d", text):
        return "", "digits"
    if re.search(r"[][(){}<>]", text):
        return "", "words in brackets"
    if re.search(r"[*#@/$%&+=~^|\\_]|\w\.\w", text):
        return "", "symbols"
    if "\N{REPLACEMENT CHARACTER}" in text or any(
        after.islower() for after in re.findall(r"\?\s*(\w)", text)
    ):
        return "", "damaged letters"
    text = text.lower().translate(ONE_SPELLING.get(language, {}))
    if language == "it":
        text = re.sub(r"\be'(?!\w)", "è", text)  # typed for a capital È
    text = re.sub(r"(?<!\w)'|'(?!\w)", " ", text).translate(PUNCTUATION)
    words = text.split()
    if not words:
        return "", "no transcript"
    if set("".join(words)) - set(ALPHABETS[language]):
        return "", "foreign letters"
    if any(len(w) == 1 and w not in ONE_LETTER_WORDS[language] for w in words):
        return "", "spelled letters"
    return " ".join(words), None


def split_of(name):
    """The split of a prompt, the same in every language: 70 % train, 15 % dev,
    15 % test, by a hash of its name less what marks a variant, so that
    ``confbridge-mute-in`` and ``-out``, ``minutes`` and ``vm-minutes``, which have
    the same text, are not parted."""
    stem = VARIANT.sub("", name.casefold())
    digest = hashlib.sha256(stem.encode()).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    return "train" if percent < 70 else "dev" if percent < 85 else "test"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data_folder")
    parser.add_argument("save_folder")
    parser.add_argument("--languages", nargs="+", default=list(VOICES))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with reported():
        prepare_voice_prompts(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
