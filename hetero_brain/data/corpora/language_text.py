"""The words of a sentence, in any language.

Which scripts a language is written in is taken from CLDR's likely subtags (``babel``),
which script a letter is of from Unicode (``fontTools``).
"""

import re
import unicodedata
from functools import cache, lru_cache

from babel.core import get_global
from fontTools.unicodedata import script, script_extension

# Several scripts in one: ISO 15924's aliases. Words of Korean are in Hangul alone, as
# how a Chinese character in them is read is not known.
COMPOUND = {
    "Hanb": {"Hani", "Bopo"},
    "Hans": {"Hani"},
    "Hant": {"Hani"},
    "Jpan": {"Hani", "Hira", "Kana"},
    "Kore": {"Hang"},
}
# Unicode's line breaking (UAX #14) finds words of these in a dictionary (class SA), or
# breaks a line between any two letters (class ID): there are no spaces between words.
WITHOUT_SPACES = {
    *("Ahom", "Khmr", "Lana", "Laoo", "Mymr", "Tale", "Talu", "Tavt", "Thai"),
    *("Bopo", "Hani", "Hira", "Kana"),
}
# I is the capital of ı, İ of i. CLDR has Crimean Tatar in Cyrillic only.
DOTLESS_I = {"az", "crh", "tr"}
ICH = "i\N{COMBINING DOT ABOVE}"  # what Unicode makes of İ in all other languages

APOSTROPHES = "'’‘‛′´`\N{FULLWIDTH APOSTROPHE}"
LETTER_APOSTROPHES = "\N{MODIFIER LETTER TURNED COMMA}\N{MODIFIER LETTER APOSTROPHE}"
# Written over a vowel in the middle of a word; Ethiopic, Hebrew … have none such.
INSIDE_WORDS = "\N{ARMENIAN EMPHASIS MARK}\N{ARMENIAN EXCLAMATION MARK}" + (
    "\N{ARMENIAN QUESTION MARK}"
)
SPOKEN = "%&@#*/\\§†‰"  # punctuation to Unicode, words to a reader

# Characters that stand for a fault; none of these control characters is left in a text.
_FAULTS = {
    "\1": "damaged letters",
    "\2": "digits",
    "\3": "symbols",
    "\4": "foreign letters",
}
_FAULT = {reason: mark for mark, reason in _FAULTS.items()}


def scored_by_characters(language):
    """Whether the script that a language is usually written in has no spaces between
    words, so that it has a character error rate and no word error rate: Japanese,
    Chinese (``zh-TW``, ``yue``, ``nan-tw``, …), Thai, Lao, Burmese, Shan, Khmer, ….

    Example
    -------
    >>> scored_by_characters("zh-TW"), scored_by_characters("ta")
    (True, False)
    """
    return _table(language).without_spaces


def normalise(sentence, language):
    """Lower-case words without punctuation, or why it is not known what was said.

    1. Unicode NFC, which the words are in, too.
    2. Lower case, where the script has case. In Turkish, Azeri and Crimean Tatar I
       becomes ı and İ becomes i; ß stays; a Greek sigma at the end of a word is ς.
    3. Digits, symbols (Unicode's, and ``% & @ # * / §``), letters of another script
       than the language's (half- and full-width forms too), characters that are none
       (U+FFFD, private use, unassigned): no words, since how these are read is not
       known. A language may have several scripts, and one that CLDR does not have is
       in any, but a sentence is in only one (see :func:`writing_systems`).
    4. Every apostrophe is ``'`` and is kept inside a word (``l'eau``, ``c'h``,
       ``п'ять``), as U+02BC and U+02BB, which are letters, are everywhere; so is the
       point of the Catalan ``l·l``. All other punctuation becomes a space, hyphens
       too; only Armenian's marks over a vowel leave no gap.
    5. Combining marks are parts of letters and stay: Indic vowel signs, Thai tones.
       What readers of a script write or leave out at will goes: Arabic short vowels
       and tatweel, Hebrew points (not in Yiddish).
    6. What is not seen goes: joiners (ZWJ, ZWNJ), direction marks, soft hyphens. They
       are not heard and one types them where another does not.
    7. No spaces at all in a language of :func:`scored_by_characters`.

    Arguments
    ---------
    sentence : str
        As it was shown to the speaker.
    language : str
        Common Voice's code, e.g. ``tr``, ``sv-SE``.

    Returns
    -------
    str
        Words, or "".
    str or None
        Why there are none.

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
    text = text.lower().replace(ICH, "i").translate(table)
    for mark, reason in _FAULTS.items():
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
    return unicodedata.normalize("NFC", text), None  # marks may have come together


def writing_systems(language):
    """The scripts that a language is written in.

    Arguments
    ---------
    language : str
        A code, e.g. ``sr``, ``zh-TW``; what follows its first part does not matter.

    Returns
    -------
    code : str
        The language as CLDR calls it: ``ku`` for ``kmr``.
    systems : list of set of str
        ISO 15924's codes. Each set is one way to write the language; the usual one is
        first, and others are those of a single country, e.g. of Azeri in Iran. Empty if
        CLDR does not have the language.

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
        if system not in systems:  # as Hans and Hant
            systems.append(system)
    return code, systems


def _in_one_of(text, systems):
    """Whether the letters of a text are all of one script, and of which systems."""
    scripts = list(filter(None, map(_scripts_of, set(text))))
    if systems:
        return any(all(its & system for its in scripts) for system in systems)
    return not scripts or bool(frozenset.intersection(*scripts))


@lru_cache(maxsize=4096)
def _scripts_of(character):
    """The scripts that a letter or mark is used in; empty if it may be in any."""
    category = unicodedata.category(character)
    if category[0] not in "LM":
        return frozenset()
    form = unicodedata.decomposition(character).partition(">")[0]
    if form in ("<wide", "<narrow") or (form, category) == ("<super", "Lo"):
        return frozenset({"Zyyy"})  # of none: how it is read is not known, as in nº
    scripts = frozenset(script_extension(character))
    if category in ("Lm", "Mn", "Mc", "Me") and script(character) in ("Zyyy", "Zinh"):
        # Unicode lists where these are known to be used, which is not everywhere.
        return frozenset() if scripts & {"Latn", "Zyyy", "Zinh"} else scripts
    return scripts


@cache
def _table(language):
    """The characters of one language."""
    return _Characters(*writing_systems(language))


class _Characters(dict):
    """What each character becomes, for ``str.translate``; found out once for each.

    Arguments
    ---------
    code, systems
        As :func:`writing_systems` gives them.
    """

    def __init__(self, code, systems):
        self.code, self.systems = code, systems
        self.scripts = set().union(*systems)
        self.without_spaces = bool(systems) and systems[0] <= WITHOUT_SPACES
        special = dict.fromkeys(APOSTROPHES, "'")
        special |= dict.fromkeys(SPOKEN, _FAULT["symbols"])
        special |= dict.fromkeys(INSIDE_WORDS, "")
        special["ـ"] = ""  # tatweel
        if code == "ca":
            special |= {"·": "·", "ŀ": "l·"}
        if "Hani" in self.scripts:
            special["〇"] = "〇"  # zero to Unicode, but a letter as 一 is
        super().__init__({ord(key): value for key, value in special.items()})
        self.optional = [range(0x064B, 0x0653), [0x0670], range(0x06D6, 0x06EE)]
        if code == "he":
            self.optional += [range(0x0591, 0x05C8)]

    def __missing__(self, number):
        self[number] = found = self.becomes(chr(number))
        return found

    def becomes(self, character):
        """The character itself, a space, nothing, or the mark of a fault."""
        category = unicodedata.category(character)
        number = ord(character)
        if category in ("Co", "Cn", "Cs") or character == "\N{REPLACEMENT CHARACTER}":
            return _FAULT["damaged letters"]
        if category[0] == "N":
            return _FAULT["digits"]
        if category[0] == "S" and category != "Sk":
            return _FAULT["symbols"]
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
        return _FAULT["foreign letters"]
