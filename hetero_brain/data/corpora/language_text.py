"""The words of a sentence, in any language.

The scripts in which a language is written are taken from CLDR's likely subtags
(``babel``), the script of a letter from Unicode (``fontTools``).
"""

import re
import unicodedata
from functools import cache, lru_cache

from babel.core import get_global
from fontTools.unicodedata import script, script_extension

# ISO 15924's aliases for several scripts. Korean is limited to Hangul, since it is not
# known how a Chinese character in a Korean sentence is read.
COMPOUND = {
    "Hanb": {"Hani", "Bopo"},
    "Hans": {"Hani"},
    "Hant": {"Hani"},
    "Jpan": {"Hani", "Hira", "Kana"},
    "Kore": {"Hang"},
}
# Scripts without spaces between words: Unicode's line breaking (UAX #14) looks up their
# words in a dictionary (class SA), or breaks a line between any two letters (class ID).
WITHOUT_SPACES = {
    *("Ahom", "Khmr", "Lana", "Laoo", "Mymr", "Tale", "Talu", "Tavt", "Thai"),
    *("Bopo", "Hani", "Hira", "Kana"),
}
# Languages in which I is the capital of ı, and İ of i. CLDR knows Crimean Tatar in
# Cyrillic only.
DOTLESS_I = {"az", "crh", "tr"}
LOWER_DOTTED_I = "i\N{COMBINING DOT ABOVE}"  # İ in lower case in all other languages

APOSTROPHES = "'’‘‛′´`\N{FULLWIDTH APOSTROPHE}"
LETTER_APOSTROPHES = "\N{MODIFIER LETTER TURNED COMMA}\N{MODIFIER LETTER APOSTROPHE}"
# Punctuation that Armenian writes over a vowel in the middle of a word.
INSIDE_WORDS = "\N{ARMENIAN EMPHASIS MARK}\N{ARMENIAN EXCLAMATION MARK}" + (
    "\N{ARMENIAN QUESTION MARK}"
)
SPOKEN = "%&@#*/\\§†‰"  # punctuation to Unicode, but read aloud as words

# Control characters that stand for a reason why the words are not known. No sentence can
# contain them, as it has no control characters left.
_REASONS = {
    "\1": "damaged letters",
    "\2": "digits",
    "\3": "symbols",
    "\4": "foreign letters",
}
_MARKS = {reason: mark for mark, reason in _REASONS.items()}


def scored_by_characters(language):
    """Whether the script in which a language is usually written has no spaces between
    words, so that it has a character error rate but no word error rate: Japanese,
    Chinese (``zh-TW``, ``yue``, ``nan-tw``, …), Thai, Lao, Burmese, Shan, Khmer, ….

    Example
    -------
    >>> scored_by_characters("zh-TW"), scored_by_characters("ta")
    (True, False)
    """
    return _table(language).without_spaces


def normalise(sentence, language):
    """Lower-case words without punctuation, or the reason why they are not known.

    1. The text is converted to Unicode NFC, and the words are in NFC, too.
    2. It is converted to lower case where the script has case. In Turkish, Azeri and
       Crimean Tatar, I becomes ı and İ becomes i; ß stays; a Greek sigma at the end of a
       word is ς.
    3. It has no words if it contains digits, symbols (Unicode's, and ``% & @ # * / §``),
       letters of a script other than the language's (or half- and full-width forms), or
       characters without a meaning (U+FFFD, private use, unassigned), since it is not
       known how these are read. A language may have several scripts, and one that is
       unknown to CLDR may be in any, but a sentence is in only one of them (see
       :func:`writing_systems`).
    4. Every apostrophe becomes ``'`` and is kept inside a word (``l'eau``, ``c'h``,
       ``п'ять``). U+02BC and U+02BB, which are letters, also become ``'`` and are kept
       everywhere. The dot of the Catalan ``l·l`` is kept. All other punctuation becomes a
       space, including hyphens; only Armenian's marks over a vowel leave no gap.
    5. Combining marks are parts of letters and stay: Indic vowel signs, Thai tones. Marks
       that writers of a script may omit are removed: Arabic short vowels and tatweel,
       Hebrew points (but not in Yiddish).
    6. Invisible characters are removed: joiners (ZWJ, ZWNJ), direction marks, soft
       hyphens. They are not heard, and not everyone types them.
    7. All spaces are removed if the language is :func:`scored_by_characters`.

    Arguments
    ---------
    sentence : str
        The sentence as it was shown to the speaker.
    language : str
        Common Voice's code, e.g. ``tr``, ``sv-SE``.

    Returns
    -------
    words : str
        "" if they are not known.
    reason : str or None
        Why they are not known.

    Example
    -------
    >>> normalise("IŞIK, “İyi” mi?", "tr")
    ('ışık iyi mi', None)
    >>> normalise("« L’eau-de-vie », c'est ‘ça’ !", "fr")
    ("l'eau de vie c'est ça", None)
    >>> normalise("Mae'r plant yng Nghymru.", "cy")
    ("mae'r plant yng nghymru", None)
    >>> normalise("今日は、いい 天気。", "ja")
    ('今日はいい天気', None)
    >>> normalise("العَرَبِيّـة", "ar")
    ('العربية', None)
    >>> normalise("Im Jahr 1990", "de")
    ('', 'digits')
    >>> normalise("தமிழ் Windows", "ta")
    ('', 'foreign letters')
    """
    table = _table(language)
    text = unicodedata.normalize("NFC", sentence)
    if table.code in DOTLESS_I:
        text = text.replace("I", "ı").replace("İ", "i")
    text = text.lower().replace(LOWER_DOTTED_I, "i").translate(table)
    for mark, reason in _REASONS.items():
        if mark in text:
            return "", reason
    if len(table.systems) != 1 and not _in_one_of(text, table.systems):
        return "", "foreign letters"
    if "'" in text:
        text = re.sub(r"''+|(?<![^ ])'|'(?![^ ])", " ", text)
    if "·" in text:
        text = re.sub(r"(?<!l)·|·(?!l)", " ", text)
    for apostrophe in LETTER_APOSTROPHES:
        text = text.replace(apostrophe, "'")
    text = " ".join(text.split())
    if table.without_spaces:
        text = text.replace(" ", "").replace("'", "")
    if not text:
        return "", "no words"
    # What was removed may have stood between a letter and its marks.
    return unicodedata.normalize("NFC", text), None


def writing_systems(language):
    """The scripts in which a language is written.

    Arguments
    ---------
    language : str
        A code, e.g. ``sr``, ``zh-TW``; only its first part matters.

    Returns
    -------
    code : str
        CLDR's code of the language: ``ku`` for ``kmr``.
    systems : list of set of str
        Codes of ISO 15924. Each set is one way to write the language, the usual one
        first; the others are used in a single country, e.g. for Azeri in Iran. Empty if
        CLDR does not know the language.

    Example
    -------
    >>> writing_systems("sr")
    ('sr', [{'Cyrl'}, {'Latn'}])
    """
    code = re.split("[-_]", language.lower())[0]
    code = get_global("language_aliases").get(code, code).split("_")[0]
    likely = get_global("likely_subtags")
    found = dict.fromkeys(
        tag.split("_")[1]
        for key, tag in sorted(likely.items())  # the language before its countries
        if re.fullmatch(rf"{re.escape(code)}(_[A-Z]{{2}}|_\d{{3}})?", key)
    )
    if found and code in DOTLESS_I:
        found["Latn"] = None
    systems = []
    for system in (COMPOUND.get(name, {name}) for name in found):
        if system not in systems:  # Hans and Hant are equal here
            systems.append(system)
    return code, systems


def _in_one_of(text, systems):
    """Whether all letters of a text belong to one of the systems, or to one script if
    there are no systems."""
    scripts = list(filter(None, map(_scripts_of, set(text))))
    if systems:
        return any(all(possible & system for possible in scripts) for system in systems)
    return not scripts or bool(frozenset.intersection(*scripts))


@lru_cache(maxsize=4096)
def _scripts_of(character):
    """The scripts in which a letter or mark is used; empty if it may be in any."""
    category = unicodedata.category(character)
    if category[0] not in "LM":
        return frozenset()
    form = unicodedata.decomposition(character).partition(">")[0]
    if form in ("<wide", "<narrow") or (form, category) == ("<super", "Lo"):
        return frozenset({"Zyyy"})  # in none: it is not known how, e.g., nº is read
    scripts = frozenset(script_extension(character))
    if category in ("Lm", "Mn", "Mc", "Me") and script(character) in ("Zyyy", "Zinh"):
        # Unicode's list of their scripts is not complete.
        return frozenset() if scripts & {"Latn", "Zyyy", "Zinh"} else scripts
    return scripts


@cache
def _table(language):
    """The ``_Characters`` of a language."""
    return _Characters(*writing_systems(language))


class _Characters(dict):
    """Maps each character to its replacement, for ``str.translate``.

    Replacements are determined when a character is first seen.

    Arguments
    ---------
    code, systems
        Of the language, from :func:`writing_systems`.
    """

    def __init__(self, code, systems):
        self.code, self.systems = code, systems
        self.scripts = set().union(*systems)
        self.without_spaces = bool(systems) and systems[0] <= WITHOUT_SPACES
        special = dict.fromkeys(APOSTROPHES, "'")
        special |= dict.fromkeys(SPOKEN, _MARKS["symbols"])
        special |= dict.fromkeys(INSIDE_WORDS, "")
        special["ـ"] = ""  # tatweel
        if code == "ca":
            special |= {"·": "·", "ŀ": "l·"}
        if "Hani" in self.scripts:
            special["〇"] = "〇"  # a zero to Unicode, but a letter just as 一 is
        super().__init__({ord(key): value for key, value in special.items()})
        self.optional = [range(0x064B, 0x0653), [0x0670], range(0x06D6, 0x06EE)]
        if code == "he":
            self.optional += [range(0x0591, 0x05C8)]

    def __missing__(self, number):
        self[number] = replacement = self._replacement(chr(number))
        return replacement

    def _replacement(self, character):
        """The character itself, a space, nothing, or one of ``_MARKS``."""
        category = unicodedata.category(character)
        number = ord(character)
        if category in ("Co", "Cn", "Cs") or character == "\N{REPLACEMENT CHARACTER}":
            return _MARKS["damaged letters"]
        if category[0] == "N":
            return _MARKS["digits"]
        if category[0] == "S" and category != "Sk":
            return _MARKS["symbols"]
        if category == "Cf":
            return ""
        if category[0] not in "LM":  # punctuation, spaces, controls, lone accents
            return " "
        if category == "Mn" and any(number in marks for marks in self.optional):
            return ""
        if unicodedata.name(character, "").startswith("VARIATION SELECTOR"):
            return ""
        scripts = _scripts_of(character)
        if not self.systems or not scripts or scripts & self.scripts:
            return character
        return _MARKS["foreign letters"]
