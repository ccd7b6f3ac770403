"""What each recipe's ``normalise`` lets through, every tokenizer gives back.

A recogniser that makes no error then has an error rate of 0, in every language.
"""

import importlib.util
import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest

from hetero_brain.data.corpora import language_text
from hetero_brain.recognition.tokenizer import train_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


english_text = load(RECIPES / "MultiDomainEnglish/english_text.py")
prompt_text = load(RECIPES / "VoicePrompts/prompt_text.py")

# Article 1 of the Universal Declaration of Human Rights, or its beginning, and what
# Unicode has a compatibility form for in that script.
SENTENCES = {
    "am": "የሰው፡ልጅ፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. ﷲ ﻻ ﷺ",
    "be": "Усе людзі нараджаюцца свабоднымі і роўнымі ў сваёй годнасці і правах.",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "bo": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས་དང༌། ཷ",
    "ca": "Tots els éssers humans neixen lliures; col·legi, coŀlegi.",
    "cs": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "cy": "Genir pawb yn rhydd ac yn gydradd â'i gilydd mewn urddas a hawliau.",
    "de": "Alle Menschen sind frei und gleich an Würde geboren. STRAẞE, Straße, ﬁx",
    "dv": "ހުރިހާ އިންސާނުން ވެސް އުފަންވަނީ، ދަރަޖައާއި ޙައްޤުތަކުގައި",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια. ϑ ϐ ΐ",
    "en": "All human beings are born free and equal in dignity and rights.",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت با هم برابرند.",
    "fr": "Tous les êtres humains naissent libres: œuvre, l’égalité, ﬂeur.",
    "gu": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર છે.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. שׁ ﬡ ﭏ",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात क़लम ख़ास।",
    "hr": "Sva ljudska bića rađaju se slobodna: ǆep, ǉubav, ǌega.",
    "hy-AM": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար։ Ես և դու, ﬓ ﬔ։",
    "it": "Tutti gli esseri umani nascono liberi ed eguali; perché c’è dell’acqua.",
    "ja": "すべての人間は、生まれながらにして自由である。コーヒー、ヷ、ゟ、神",
    "ka": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი. ჼ",
    "km": "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងភាពស្មើៗគ្នា",
    "kn": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಹುಟ್ಟಿದ್ದಾರೆ.",
    "ko": "모든 인간은 태어날 때부터 자유로우며 ㅋㅋ ㄳ",
    "lo": "ມະນຸດທຸກຄົນເກີດມາມີສິດເສລີ ນ້ຳ ຄຳ ໜ ໝ",
    "ml": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി",
    "my": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့်",
    "nl": "Alle mensen worden vrĳ en gelijk geboren. Ĳs, ĳzer.",
    "or": "ସବୁ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ। ଡ଼ ଢ଼",
    "pa": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ। ਖ਼ ਗ਼ ਜ਼",
    "ru": "Все люди рождаются свободными и равными; ещё ёж.",
    "sat": "ᱡᱚᱛᱚ ᱦᱚᱲ ᱯᱷᱩᱨᱜᱟᱹᱞ",
    "si": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත.",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; கொ ௌ",
    "te": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులు.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระ น้ำ ทำ คำ",
    "ti": "ብመንፅር ክብርን መሰልን ኩሎም ሰባት",
    "tr": "Bütün insanlar hür doğarlar. IŞIK, İyi.",
    "uk": "Всі люди народжуються вільними; п’ять, їжак, ґанок.",
    "ur": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔ ﮨے",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng.",
    "yi": "יעדער מענטש װערט געבױרן פֿרײַ און גלײַך. ײַ ייִ וּ",
    "yue": "人人生而自由，喺尊嚴同埋權利上一律平等。㗎 𠮩 樂",
    "zgh": "ⴰⵔ ⴷ ⵜⵜⵍⴰⵍⴰⵏ ⵎⵉⴷⴷⵏ ⴳⴰⵏ ⵉⵍⵍⵉⵍⵏ",
    "zh-CN": "人人生而自由,在尊严和权利上一律平等。二〇〇八年",
}


def script_of(language):
    """The scripts that are mixed where a language is written as usual."""
    return frozenset(language_text.writing_systems(language)[1][0])


@cache
def letters():
    """Script → all letters and marks that it has, in any form."""
    found = {}
    for character in map(chr, range(0x20, 0x30000)):
        for script in language_text._scripts_of(character):
            found.setdefault(script, []).append(character)
    return found


def random_sentences(language, n=40):
    """Sentences of letters that a language's script has, and of marks that any has."""
    rng = random.Random(language)
    own = [c for script in sorted(script_of(language)) for c in letters()[script]]
    marks = [c for c in map(chr, range(0x300, 0x370))] + ["\u200d", "\u0640", "'", "’"]
    for _ in range(n):
        words = (rng.choices(own, k=rng.randint(1, 8)) for _ in range(5))
        yield " ".join("".join(w) + rng.choice(["", *marks]) for w in words)


def come_back(words, folder):
    """Check the round trip of some words for each kind of unit."""
    assert words
    for unit in ("char", "unigram", "bpe"):
        tokenizer = train_tokenizer(words, folder / unit, unit, vocab_size=100)
        assert tokenizer.decode(tokenizer.encode(words)) == words
        assert not any(tokenizer.unk_id() in ids for ids in tokenizer.encode(words))


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_of_many_languages_come_back(language, tmp_path):
    forms = [unicodedata.normalize(f, SENTENCES[language]) for f in ("NFC", "NFD")]
    found = [language_text.normalise(sentence, language) for sentence in forms]
    words, fault = found[0]
    assert fault is None and found[1] == found[0]
    come_back([words, *words.split()], tmp_path)


# One language of each script, or mixture of scripts.
LANGUAGES = {script_of(language): language for language in SENTENCES}.values()


@pytest.mark.parametrize("language", LANGUAGES)
def test_random_letters_of_a_script_come_back(language, tmp_path):
    found = [language_text.normalise(s, language) for s in random_sentences(language)]
    words = [words for words, fault in found if not fault]
    assert len(words) > 10
    assert all(unicodedata.is_normalized("NFC", text) for text in words)
    assert all(text == " ".join(text.split()) for text in words)
    come_back(words, tmp_path)


ENGLISH = [
    "MISTER QUILTER'S MANNER",
    "mr president, the e.u. budget",
    "“Don’t!”, she said — twice.",
    "Rock 'n' roll; dogs', AT&T & me",
    "Zoë's café: 3.5 km at 10 a.m.",
    "the ﬁnal oﬃce, ﬂat",
    "well-known uh-huh - th- -- so... 'cause",
]


def test_english_comes_back(tmp_path):
    rng = random.Random(0)
    drawn = ("".join(rng.choices(english_text.CHARACTERS, k=30)) for _ in range(300))
    found = [english_text.normalise(text) for text in (*ENGLISH, *drawn)]
    come_back([words for words, fault in found if not fault], tmp_path)


PROMPTS = {
    "en": ["Please say your name, after the tone.", "It's o’clock", "Press 1"],
    "es": ["Número de contraseña, ¿sí?", "El año"],
    "fr": ["L’été, ça va où ? Cœur, naïve, à l'heure.", "Œuvre"],
    "it": ["C’è un altro partecipante. E' così, perché no?", "più giù"],
    "ru": ["Решётка, ещё раз. Вы — первый.", "съезд"],
}


@pytest.mark.parametrize("language", PROMPTS)
def test_voice_prompts_come_back(language, tmp_path):
    rng = random.Random(0)
    letters = prompt_text.ALPHABETS[language] + " ,.’"
    drawn = ("".join(rng.choices(letters, k=30)) for _ in range(300))
    texts = (*PROMPTS[language], *drawn)
    found = [prompt_text.normalise(text, language) for text in texts]
    come_back([words for words, fault in found if not fault], tmp_path)
