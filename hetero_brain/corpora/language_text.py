"""The words of a sentence, in any language."""

import re
import unicodedata
from functools import cache, lru_cache

# The scripts of Common Voice's languages, by the first word of their letters' Unicode
# names. In a language that is not here a sentence may be in any script, but in one.
_LANGUAGES = {
    "LATIN": "af an ast az bas br bs ca cak cnh co cs cy da de dyu ee en eo es et eu ff "
    "fi fo fr fy ga gl gn gv ha hr hsb hu ia id ig is it kab kln kmr la lb lg lij ln lt "
    "ltg luo lv mos ms mt nb nhe nhi nl nn nso nr oc om pap pl pt quy rm ro rw sc sk sl "
    "sn so sq st su sv sw tk tl tn to tok tr ts tw uz ve vec vi vot wo xh yo zu zza",
    "CYRILLIC": "ab ba be bg ce cv kbd kk kv ky mdf mhr mk mn mrj myv os ru sah tg tt "
    "tyv udm uk",
    "ARABIC": "ar bal ckb fa ks ps sd skr ug ur",
    "DEVANAGARI": "brx doi hi kok mai mr ne sa",
    "BENGALI": "as bn",
    "ETHIOPIC": "am ti tig",
    "HEBREW": "he yi",
    "ARMENIAN": "hy hyw",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "KANNADA": "kn",
    "KHMER": "km",
    "LAO": "lo",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "OL": "sat",
    "ORIYA": "or",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAANA": "dv",
    "THAI": "th",
    "TIBETAN": "bo dz",
    "TIFINAGH": "zgh",
    "CJK": "ja yue zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
}
SCRIPTS = {}  # {language: set of scripts}
for _script, _codes in _LANGUAGES.items():
    for _code in _codes.split():
        SCRIPTS.setdefault(_code, set()).add(_script)

WITHOUT_SPACES = {"ja", "km", "lo", "my", "th", "yue", "zh"}
DOTLESS_I = {"az", "crh", "tr"}  # I is the capital of ı, İ of i
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
    """Whether a language is written without spaces, so that it has a character error
    rate and no word error rate: Japanese, Chinese (all of ``zh-CN``, ``zh-HK``,
    ``zh-TW``, ``yue``), Thai, Lao, Burmese, Khmer.

    Example
    -------
    >>> scored_by_characters("zh-TW"), scored_by_characters("ta")
    (True, False)
    """
    return _base(language) in WITHOUT_SPACES


def normalise(sentence, language):
    """Lower-case words without punctuation, or why it is not known what was said.

    1. Unicode NFC, which the words are in, too.
    2. Lower case, where the script has case. In Turkish, Azeri and Crimean Tatar I
       becomes ı and İ becomes i; ß stays; a Greek sigma at the end of a word is ς.
    3. Digits, symbols (Unicode's, and ``% & @ # * / §``), letters of another script
       than the language's (half- and full-width forms too), characters that are none
       (U+FFFD, private use, unassigned): no words, since how these are read is not
       known. A language that ``SCRIPTS`` does not have may be in any script, but a
       sentence in only one.
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
    code = _base(language)
    text = unicodedata.normalize("NFC", sentence)
    if code in DOTLESS_I:
        text = text.replace("I", "ı").replace("İ", "i")
    text = text.lower().replace(ICH, "i").translate(_table(code))
    for mark, reason in _FAULTS.items():
        if mark in text:
            return "", reason
    if code not in SCRIPTS and len({_script_of(c) for c in set(text)} - {None}) > 1:
        return "", "foreign letters"
    if "'" in text:
        text = re.sub(r"''+|(?<![^ ])'|'(?![^ ])", " ", text)
    if "·" in text:
        text = re.sub(r"(?<!l)·|·(?!l)", " ", text)
    for apostrophe in LETTER_APOSTROPHES:
        text = text.replace(apostrophe, "'")
    text = " ".join(text.split())
    if code in WITHOUT_SPACES:
        text = text.replace(" ", "").replace("'", "")
    if not text:
        return "", "no words"
    return unicodedata.normalize("NFC", text), None  # marks may have come together


def _base(language):
    """``sv`` of ``sv-SE``."""
    return language.partition("-")[0].partition("_")[0].lower()


@lru_cache(maxsize=4096)
def _script_of(character):
    """The script of a letter or mark, as ``SCRIPTS`` names it; None if it has none."""
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "UNNAMED").replace("-", " ").split()
    if words[0] in ("MODIFIER", "COMBINING"):
        return None
    return "CJK" if words[0] == "IDEOGRAPHIC" else words[0]


@cache
def _table(code):
    """The characters of one language."""
    return _Characters(code)


class _Characters(dict):
    """What each character becomes, for ``str.translate``; found out once for each.

    Arguments
    ---------
    code : str
        The language, without its region.
    """

    def __init__(self, code):
        self.scripts = SCRIPTS.get(code)
        special = dict.fromkeys(APOSTROPHES, "'")
        special |= dict.fromkeys(SPOKEN, _FAULT["symbols"])
        special |= dict.fromkeys(INSIDE_WORDS, "")
        special["ـ"] = ""  # tatweel
        if code == "ca":
            special |= {"·": "·", "ŀ": "l·"}
        if code in ("ja", "yue", "zh"):
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
        script = _script_of(character)
        if self.scripts is None or script is None or script in self.scripts:
            return character
        return _FAULT["foreign letters"]
