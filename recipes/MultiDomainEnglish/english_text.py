"""Transcripts of English corpora, each with a markup of its own, in one character set:
a–z, 0–9, the space and ``' - . &``, 41 characters.

A transcript becomes words only if it tells what is said. In each corpus some words are
not certain: not understood, foreign, unknown to its makers. Such an utterance has no
words here but a reason, and serves for pre-training.
"""

import re
import unicodedata
from functools import lru_cache

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 '-.&"

NOISE = (r"\[[^\]]*\]|\{[^}]*\}", " ")
TAGS = (r"<[^>]*>", " ")
UNINTELLIGIBLE = (r"\(\(|\)\)", "unintelligible words")
# `{laugh}` and `{breath`, `[static]`, `[/static]`, `[[NS]]`: what is no speech
LDC_NOISE = [
    (r"\[\[[^\]]*\]\]", " "),
    (r"\[/?[^\]]*\]", " "),
    (r"\{\w*\}?", " "),
]
# `&Bill`, `^Jennings` and `@Arafat` are names, the last of a spelling not looked up;
# `%uh` is a hesitation, `**yuppiedom**` a coinage, `+probly+` said so, `//aside//` said
# to others, `#both#` said while another speaks: all of it is said.
LDC_WORDS = [
    (r"(?<![\w])[&%^@](?=[\w'])", ""),
    (r"\*\*|//|#|\+(?=\w)|(?<=\w)\+", " "),
    (r"(?<=[A-Za-z])\._|_", ". "),
]

# What says that words are not certain: (pattern, reason).
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
# What is said by each mark, applied in order: (pattern, replacement).
MARKUP = {
    "broadcast_news": [*LDC_NOISE, TAGS, *LDC_WORDS],
    "callhome_english": [*LDC_NOISE, *LDC_WORDS],
    "edacc": [TAGS],
    "fisher_english": [*LDC_NOISE, *LDC_WORDS],
    "switchboard": [
        (r"<[be]_aside>", " "),
        (r"\[laughter-([^\]]+)\]", r"\1"),  # said laughing
        # [lem[guini]-/linguini]: what was said, and what was meant
        (r"\[((?:[^][/]|\[[^]]*\])+)/[^][]*\]", r"\1"),
        (r"(?<!\S)\[(laughter|noise|vocalized-noise|silence)\](?!\S)", " "),
        (r"\{([^}]*)\}", r"\1"),  # coined
        (r"\[[^]]*\]", ""),  # of a broken word, what was not said: th[at]-, -[th]at
        (r"_\d\b", ""),  # about_1: a way to say it
    ],
    "tedlium": [
        NOISE,
        (r"<sil>", " "),
        (r"\(\d\)", ""),  # a(2): a way to say it
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
    """The words of a transcript, or why they are not known.

    1. Bytes that were no UTF-8, U+FFFD here: no words. The corpus's own markup:
       ``UNCERTAIN``, then ``MARKUP``.
    2. What is left in brackets, symbols that stand for words (``%``, ``$``, ``=``), and
       letters that are not Latin: no words. Accents are dropped: ``café`` is ``cafe``.
    3. Lower case. ``'`` stays in and before words (``'cause``), ``-`` within them
       (``uh-huh``) and where a word breaks off (``th-``), ``&`` within them (``at&t``)
       and is ``and`` by itself, ``.`` stays after initials (``u.s.``) and before digits
       (``3.5``). All other punctuation becomes a space.

    Arguments
    ---------
    text : str
        As the corpus has it.
    corpus : str
        lhotse's name; one that is not in ``MARKUP`` has none.

    Returns
    -------
    str
        Words of ``CHARACTERS``, or "".
    str or None
        Why there are none.

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
    """One word of lower-case letters, with the marks that belong to it."""
    if word.isalnum():
        return word
    if word == "&":
        return "and"
    word = word.replace("--", " ").strip("&")
    if re.fullmatch(r"(?:[a-z]\.)+(?:'s)?", word):  # initials
        return word
    # Quotes around a word, dots not before a digit or within, hyphens before it
    word = re.sub(r"\.(?![a-z0-9])|(?<![a-z0-9])\.(?!\d)", " ", word)
    word = re.sub(r"(?<![a-z0-9])-+(?![a-z0-9])|(?<!\S)-+", " ", word)
    word = re.sub(r"(?<!\S)'(.*)'(?!\S)", r"\1", word)
    word = re.sub(r"(?<!\S)'+(?![a-z0-9])|(?<![a-z0-9s])'+(?!\S)", " ", word)
    return " ".join(word.split())
