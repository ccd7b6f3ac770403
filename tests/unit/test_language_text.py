"""The words of sentences, by language."""

import unicodedata

import pytest

from hetero_brain.data.corpora.language_text import normalise, scored_by_characters

ZWNJ, ZWJ = "\N{ZERO WIDTH NON-JOINER}", "\N{ZERO WIDTH JOINER}"


@pytest.mark.parametrize(
    "language, sentence, words",
    [
        # Turkish and Azeri have two letters i; others have not.
        ("tr", "IĞDIR İLİ Işık ile İyi", "ığdır ili ışık ile iyi"),
        ("az", "ISTİ", "ısti"),
        ("en", "IT IS IN İSTANBUL", "it is in istanbul"),
        ("tr", "Türkiye'nin", "türkiye'nin"),
        ("sv-SE", "Åke, Ärla och Öland", "åke ärla och öland"),
        ("de", "Straße, STRAẞE – „Größe“", "straße straße größe"),
        ("el", "Ο ΟΔΥΣΣΕΑΣ είπε: «ΣΑΣ;»", "ο οδυσσεας είπε σας"),
        ("ru", "Ёлка — это… да!", "ёлка это да"),
        # The apostrophe within words.
        ("fr", "L’été, c'est ‘beau’ aujourd'hui'", "l'été c'est beau aujourd'hui"),
        ("fr", "porte-monnaie", "porte monnaie"),
        ("it", "Dell´acqua; po'", "dell'acqua po"),
        ("cy", "Mae'r tŷ 'ma", "mae'r tŷ ma"),
        ("br", "C’hoar ar c'hi", "c'hoar ar c'hi"),
        ("uk", "п’ять, п'ять, п\u02bcять", "п'ять п'ять п'ять"),
        ("en", "''Tis 'quoted' o`clock", "tis quoted o'clock"),
        ("en", "a''b", "a b"),
        ("ca", "El col·legi, l’àvia · novel·la.", "el col·legi l'àvia novel·la"),
        ("ca", "coŀlegi", "col·legi"),
        ("es", "uno·dos", "uno dos"),
        ("uz", "O\u02bbzbek \u02bbayn\u02bb", "o'zbek 'ayn'"),
        # Marks are parts of letters.
        ("ta", "தமிழ் மொழி, இனிது!", "தமிழ் மொழி இனிது"),
        ("hi", "हिन्दी में “क़लम” है।", "हिन्दी में क़लम है"),
        ("vi", "Tiếng Việt", "tiếng việt"),
        ("gn", "G\u0303uahẽ", "g\u0303uahẽ"),
        ("hy-AM", "Ինչպե՞ս ես։", "ինչպես ես"),
        ("ka", "ᲒᲐᲛᲐᲠᲯᲝᲑᲐ", "გამარჯობა"),
        # What may be left out of a word goes.
        ("ar", "كَتَبَ الـــولدُ، رسالةً؟", "كتب الولد رسالة"),
        ("ar", "مسؤول قرآن", "مسؤول قرآن"),
        ("ar", "ه\u0670ذا ق\u064fل\u06e1", "هذا قل"),
        ("he", "שָׁלוֹם־עולם", "שלום עולם"),
        ("yi", "ייִדיש אַ", "ייִדיש אַ"),
        ("fa", f"می{ZWNJ}روم", "میروم"),
        ("si", f"ශ්{ZWJ}රී", "ශ්රී"),
        ("en", "soft\u00adware \u200eleft \ufeffx\u200b", "software left x"),
        ("en", "a ^ b ¨", "a b"),
        ("en", "heart\ufe0f", "heart"),
        # Written without spaces.
        ("ja", "コーヒーを、二つ？", "コーヒーを二つ"),
        ("ja", "時々 「東京」へ", "時々東京へ"),
        ("zh-CN", "二〇〇八年， 你好！", "二〇〇八年你好"),
        ("zh-TW", "我們‘好’", "我們好"),
        ("th", "สวัสดี ครับ", "สวัสดีครับ"),
        ("ko", "안녕하세요, 여러분!", "안녕하세요 여러분"),
        ("nan-tw", "我 愛 你", "我愛你"),
        ("wuu", "侬 好！", "侬好"),
        ("shn", "မႂ်ႇ သုင်", "မႂ်ႇသုင်"),
        ("mya", "မင်္ဂလာ ပါ", "မင်္ဂလာပါ"),
        # Written in several scripts, a sentence in one of them.
        ("sr", "Љубав и мир", "љубав и мир"),
        ("sr", "Ljubav i mir", "ljubav i mir"),
        ("uz", "Ўзбек тили", "ўзбек тили"),
        ("kk", "قازاق تىلى", "قازاق تىلى"),
        ("pa-IN", "پنجابی", "پنجابی"),
        ("kmr", "Kurmancî", "kurmancî"),
        ("kmr", "کورمانجی", "کورمانجی"),
        ("sd", "सिन्धी", "सिन्धी"),
        ("crh", "QIRIM tili", "qırım tili"),
        ("crh", "Къырым тили", "къырым тили"),
        ("mhr", "Марий йылме", "марий йылме"),
        # A language that is not known here.
        ("xx", "Слово, и\u00a0ещё", "слово и ещё"),
        ("xx", "A word", "a word"),
    ],
)
def test_words(language, sentence, words):
    words = unicodedata.normalize("NFC", words)
    for form in ("NFC", "NFD"):
        got = normalise(unicodedata.normalize(form, sentence), language)
        assert got == (words, None)


@pytest.mark.parametrize(
    "language, sentence, reason",
    [
        ("de", "1990", "digits"),
        ("ar", "عام ١٩٩٠", "digits"),
        ("ta", "௧௯", "digits"),
        ("en", "Henry Ⅷ", "digits"),
        ("en", "half ½", "digits"),
        ("ko", "二〇〇八", "digits"),
        ("en", "this & that", "symbols"),
        ("en", "ten %", "symbols"),
        ("en", "five €", "symbols"),
        ("en", "one + one", "symbols"),
        ("en", "twenty °", "symbols"),
        ("en", "ok 👍", "symbols"),
        ("en", "caf\ufffd", "damaged letters"),
        ("en", "x\ue000", "damaged letters"),
        ("ta", "தமிழ் Windows", "foreign letters"),
        ("ja", "Tシャツ", "foreign letters"),
        ("ja", "ｺｰﾋｰ", "foreign letters"),
        ("ko", "漢字 한글", "foreign letters"),
        ("zh-CN", "我のこと", "foreign letters"),
        ("ru", "первoe", "foreign letters"),  # the last two are Latin
        ("sv-SE", "bokstaven π", "foreign letters"),
        ("ta", "தमि", "foreign letters"),  # a Devanagari letter and its sign
        ("xx", "Слово word", "foreign letters"),
        ("sr", "Љубав i мир", "foreign letters"),
        ("kk", "қазақ تىلى", "foreign letters"),
        ("sr", "ᲒᲐᲛᲐᲠᲯᲝᲑᲐ", "foreign letters"),
        ("ady", "a word", "foreign letters"),  # Adyghe
        ("mg", "слово", "foreign letters"),
        ("nan-tw", "我 love 你", "foreign letters"),
        ("es", "nº", "foreign letters"),
        ("en", "𝐛old", "foreign letters"),
        ("fr", "« … ! »", "no words"),
        ("fr", " ' ", "no words"),
        ("en", "", "no words"),
        ("en", "in 1990 ½ %", "digits"),
    ],
)
def test_no_words(language, sentence, reason):
    assert normalise(sentence, language) == ("", reason)


@pytest.mark.parametrize("language", "ko vi ta sv-SE en za bo sr-Latn xx".split())
def test_languages_with_spaces(language):
    assert not scored_by_characters(language)


@pytest.mark.parametrize(
    "language",
    "ja zh-CN zh-TW zh-HK yue nan-tw wuu hak lzh cmn th lo my mya km shn khb nod".split(),
)
def test_languages_without_spaces(language):
    assert scored_by_characters(language)
