"""The words of a voice prompt, if its transcript tells them with certainty."""

import re
import unicodedata

# Sound effects in every language, although some transcripts do not say so.
SOUND_EFFECTS = {
    "ascending-2tone",
    "beep",
    "beeperr",
    "confbridge-join",
    "confbridge-leave",
    "descending-2tone",
    "tt-monkeys",
}
# The fastest correct transcripts reach 22; longer ones contain text that is not said.
MAX_CHARACTERS_PER_SECOND = 25.0

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz'",
    "es": "abcdefghijklmnopqrstuvwxyz",
    "fr": "abcdefghijklmnopqrstuvwxyzàâæçéèêëîïôœùûüÿ'",
    "it": "abcdefghijklmnopqrstuvwxyzàèéìíòóùú'",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
}
# Any other single letter is spelled: the text is "w", but one hears "double you".
ONE_LETTER_WORDS = {
    "en": "ai",
    "es": "aeouy",
    "fr": "aày",
    "it": "aeèioò",
    "ru": "авикосуя",
}
QUOTES = str.maketrans(dict.fromkeys("‘’ʼ`´", "'"))
PUNCTUATION = str.maketrans(dict.fromkeys('.,;:!?¡¿…"“”„«»-‐–—', " "))
# The Spanish transcripts have both "numero" and "número", and always "contrasena": each
# word has a single spelling only without accents, tilde and diaeresis. The same is true
# of Russian "решетка" and "решётка".
ONE_SPELLING = {
    "es": str.maketrans("áéíóúüñ", "aeiouun"),
    "ru": str.maketrans("ё", "е"),
}


def is_sound_effect(name, texts):
    """Whether a prompt is not speech, by its name, or because all of its transcript is in
    brackets, such as ``[ascending tones]``."""
    return (
        name in SOUND_EFFECTS
        or name.startswith("silence/")
        or any(re.fullmatch(r"\[.*\]|\(.*\)|<.*>", text) for text in texts)
    )


def label(name, texts, language, seconds):
    """The words that are certainly said in a prompt.

    The rules of ``normalise`` apply. In addition, a prompt has no words if it has two
    different transcripts, if it is in ``letters/`` and its text is one letter, which
    stands for the letter's name, or if its text is longer than
    ``MAX_CHARACTERS_PER_SECOND`` allow.

    Arguments
    ---------
    name : str
        The name of the prompt, such as ``letters/a``.
    texts : collection of str
        Its transcripts.
    language : str
        A key of ``ALPHABETS``.
    seconds : float
        Duration of the audio.

    Returns
    -------
    words : str
        Normalised words; "" if they are not certain.
    reason : str or None
        Why they are not certain.
    """
    if not texts:
        return "", "no transcript"
    if len(texts) > 1:
        return "", "two transcripts"
    words, reason = normalise(*texts, language)
    if name.startswith("letters/") and len(words) == 1:
        return "", "spelled letters"
    if len(words) > MAX_CHARACTERS_PER_SECOND * seconds:
        return "", "text too long for the audio"
    return words, reason


def normalise(text, language):
    """Lower-case words without punctuation, or the reason why the text does not tell what
    is said.

    1. The text is converted to NFC, and typographic apostrophes become ``'``.
    2. Brackets without a letter, as in ``at [@]``, are notes and are removed. With a
       letter, as in ``[quello] non è`` or ``Pour (emphase)``, their content may be spoken
       or not, so that the words are not known.
    3. The words are not known if the line continues with the next prompt, or if it has
       digits, symbols that stand for words, dots inside words (``www.asterisk.org``,
       ``A.M.``), or accented letters that have become ``?``.
    4. The text is converted to lower case. Apostrophes stay within words; all other
       punctuation, including hyphens, becomes spaces. Words that are spelled in several
       ways are given one spelling (see ``ONE_SPELLING``).
    5. The words are not known if a letter is not in the language's alphabet, or if a
       single letter is not a word.

    Arguments
    ---------
    text : str
        A transcript.
    language : str
        A key of ``ALPHABETS``.

    Returns
    -------
    (str, str or None)
        As from ``label``.

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
