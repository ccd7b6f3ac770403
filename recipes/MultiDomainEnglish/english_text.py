"""Converts the transcripts of English corpora, each of which has its own markup, to one
set of 41 characters: a–z, 0–9, the space and ``' - . &``.

A transcript becomes words only if it tells what is said. Each corpus has some words that
are not certain: they were not understood, are foreign, or were unknown to its makers. For
such an utterance there is a reason in place of words, and it is used for pre-training.
"""

import re
import unicodedata
from functools import lru_cache

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 '-.&"

NOISE = (r"\[[^\]]*\]|\{[^}]*\}", " ")
TAGS = (r"<[^>]*>", " ")
UNINTELLIGIBLE = (r"\(\(|\)\)", "unintelligible words")
# Sounds that are not speech: `{laugh}` and `{breath`, `[static]`, `[/static]`, `[[NS]]`.
LDC_NOISE = [
    (r"\[\[[^\]]*\]\]", " "),
    (r"\[/?[^\]]*\]", " "),
    (r"\{\w*\}?", " "),
]
# Marks of words that are said: `&Bill`, `^Jennings` and `@Arafat` are names (the spelling
# of the last was not looked up), `%uh` is a hesitation, `**yuppiedom**` is a coinage,
# `+probly+` is a mispronunciation, `//aside//` is said to others, and `#both#` is said
# while someone else speaks.
LDC_WORDS = [
    (r"(?<![\w])[&%^@](?=[\w'])", ""),
    (r"\*\*|//|#|\+(?=\w)|(?<=\w)\+", " "),
    (r"(?<=[A-Za-z])\._|_", ". "),
]

# Marks of words that are not certain: (pattern, reason).
UNCERTAIN = {
    "broadcast_news": [
        UNINTELLIGIBLE,
        (r"<(b_)?unclear", "unintelligible words"),
        (r"<(b_)?(foreign|language)", "foreign words"),
    ],
    "callhome_english": [
        UNINTELLIGIBLE,
        (r"<\?", "unintelligible words"),
        (r"<[a-z_]+\s[^>]*>", "foreign words"),  # <German ja gut>
    ],
    "edacc": [
        (r"<foreign", "foreign words"),
        (r"<(unk|unintelligible|no-speech)", "unintelligible words"),
    ],
    "fisher_english": [UNINTELLIGIBLE],
    "switchboard": [],
    "tedlium": [(r"<unk>", "unknown words")],
}
UNCERTAIN["tedlium2"] = UNCERTAIN["tedlium"]
# All other marks, in the order in which they are replaced: (pattern, replacement).
MARKUP = {
    "broadcast_news": [*LDC_NOISE, TAGS, *LDC_WORDS],
    "callhome_english": [*LDC_NOISE, *LDC_WORDS],
    "edacc": [TAGS],
    "fisher_english": [*LDC_NOISE, *LDC_WORDS],
    "switchboard": [
        (r"<[be]_aside>", " "),
        (r"\[laughter-([^\]]+)\]", r"\1"),  # said laughing
        # [lem[guini]-/linguini]: what is said, and what is meant
        (r"\[((?:[^][/]|\[[^]]*\])+)/[^][]*\]", r"\1"),
        (r"(?<!\S)\[(laughter|noise|vocalized-noise|silence)\](?!\S)", " "),
        (r"\{([^}]*)\}", r"\1"),  # coined
        (r"\[[^]]*\]", ""),  # the part of a word that is not said: th[at]-, -[th]at
        (r"_\d\b", ""),  # about_1: a pronunciation
    ],
    "tedlium": [
        NOISE,
        (r"<sil>", " "),
        (r"\(\d\)", ""),  # a(2): a pronunciation
        (r"(?<=\w) '(?=\w)", "'"),  # it 's
        (r"(?<!\S)' (?=\w)", "'"),  # ' cause
    ],
}
MARKUP["tedlium2"] = MARKUP["tedlium"]
QUOTES = str.maketrans(
    {**dict.fromkeys("‘’ʼ`´′", "'"), **dict.fromkeys("‐‑–—−", "-"), "_": " "}
)
PUNCTUATION = re.compile(r"[\"“”„«»,;:!?¡¿…()]")


def normalise(text, corpus=""):
    """The words of a transcript, or the reason why they are not known.

    1. The words are not known if there were bytes that are not UTF-8, which are U+FFFD
       here. The markup of the corpus is resolved: ``UNCERTAIN``, then ``MARKUP``.
    2. The words are not known if brackets, symbols that stand for words (``%``, ``$``,
       ``=``) or letters that are not Latin are left. Accents are dropped: ``café``
       becomes ``cafe``.
    3. The text is converted to lower case. ``'`` stays within and before words
       (``'cause``), ``-`` stays within them (``uh-huh``) and where a word breaks off
       (``th-``), ``&`` stays within them (``at&t``) and is ``and`` on its own, ``.``
       stays after initials (``u.s.``) and before digits (``3.5``). All other punctuation
       becomes a space.

    Arguments
    ---------
    text : str
        The transcript, as the corpus has it.
    corpus : str
        lhotse's name; one that is not in ``MARKUP`` is taken to have no markup.

    Returns
    -------
    words : str
        Consists of ``CHARACTERS``; "" if the words are not known.
    reason : str or None
        Why they are not known.

    Example
    -------
    >>> normalise("it 's [NOISE] all right", "tedlium")
    ("it's all right", None)
    >>> normalise("you know (( )) that", "fisher_english")
    ('', 'unintelligible words')
    """
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "", "damaged text"
    for pattern, reason in UNCERTAIN.get(corpus, ()):
        if re.search(pattern, text, re.IGNORECASE):
            return "", reason
    for pattern, replacement in MARKUP.get(corpus, ()):
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
    if re.search(r"[][{}<>]", text):
        return "", "words in brackets"

    text = text.translate(QUOTES).lower()
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
        text = "".join(c for c in text if not unicodedata.combining(c))
    words = [_word(word) for word in PUNCTUATION.sub(" ", text).split()]
    text = " ".join(filter(None, words))
    other = sorted(set(text) - set(CHARACTERS))
    if other:
        letters = any(c.isalpha() for c in other)
        return "", "letters that are not English" if letters else "symbols"
    if not any(c.isalnum() for c in text):
        return "", "no transcript"
    return text, None


@lru_cache(maxsize=1 << 20)
def _word(word):
    """One word in lower case, without punctuation that is not part of it."""
    if word.isalnum():
        return word
    if word == "&":
        return "and"
    word = word.replace("--", " ").strip("&")
    if re.fullmatch(r"(?:[a-z]\.)+(?:'s)?", word):  # initials
        return word
    # What goes: dots that are not within the word or before a digit, hyphens that are not
    # within or after it, and quotes around it.
    word = re.sub(r"\.(?![a-z0-9])|(?<![a-z0-9])\.(?!\d)", " ", word)
    word = re.sub(r"(?<![a-z0-9])-+(?![a-z0-9])|(?<!\S)-+", " ", word)
    word = re.sub(r"(?<!\S)'(.*)'(?!\S)", r"\1", word)
    word = re.sub(r"(?<!\S)'+(?![a-z0-9])|(?<![a-z0-9s])'+(?!\S)", " ", word)
    return " ".join(word.split())
