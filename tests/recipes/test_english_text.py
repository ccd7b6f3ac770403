"""Transcripts as the corpora have them, and the words that they become."""

import importlib.util
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes/MultiDomainEnglish"
spec = importlib.util.spec_from_file_location(
    "english_text", RECIPE / "english_text.py"
)
english_text = importlib.util.module_from_spec(spec)
spec.loader.exec_module(english_text)
normalise = english_text.normalise


def test_the_character_set():
    """41 characters, which with SentencePiece's <unk> and the CTC blank are the 43
    outputs of the paper."""
    assert len(set(english_text.CHARACTERS)) == len(english_text.CHARACTERS) == 41


@pytest.mark.parametrize(
    "corpus, text, words",
    [
        ("librispeech", "MISTER QUILTER'S MANNER", "mister quilter's manner"),
        ("ami", "MM-HMM WE'LL USE T V OK", "mm-hmm we'll use t v ok"),
        ("voxpopuli", "mr president, the e.u. budget", "mr president the e.u. budget"),
        ("tedlium", "it 's <sil> all {NOISE} right [NOISE]", "it's all right"),
        ("tedlium", "a(2) few(3) ' cause they 're", "a few 'cause they're"),
        ("switchboard", "[laughter-yeah] [vocalized-noise] i know", "yeah i know"),
        ("switchboard", "th[at]- -[th]at's a[bso]lute", "th- at's alute"),
        ("switchboard", "<b_aside> {yuppiedom} <e_aside> about_1", "yuppiedom about"),
        ("switchboard", "[it'n/isn't] [lem[guini]-/linguini]", "it'n lem-"),
        ("fisher_english", "i b- [LAUGH] i._b._m. [noise] yeah", "i b- i. b. m. yeah"),
        ("callhome_english", "%ah {laugh} &Bill said **zippy**", "ah bill said zippy"),
        ("callhome_english", "no -- [/static] //hi// yes {cough}", "no hi yes"),
        ("broadcast_news", "{breath Good evening. ^Peter", "good evening peter"),
        ("broadcast_news", "<background type=music level=high> so it is", "so it is"),
        ("broadcast_news", "@Arafat +probly+ [[skip]] U.S.", "arafat probly u.s."),
        ("edacc", "YEAH <laugh> I KNOW <overlap>", "yeah i know"),
        ("commonvoice", "“Don’t!”, she said — twice.", "don't she said twice"),
        ("any", "Rock 'n' roll; dogs', AT&T & me", "rock n roll dogs' at&t and me"),
        ("commonvoice", "Zoë's café: 3.5 km at 10 a.m.", "zoe's cafe 3.5 km at 10 a.m."),
        ("any", "well-known uh-huh - th- -- so...", "well-known uh-huh th- so"),
        ("any", "Mr. Smith, www.x.com. End.", "mr smith www.x.com end"),
    ],
)  # fmt: skip
def test_words(corpus, text, words):
    assert normalise(text, corpus) == (words, None)
    assert set(words) <= set(english_text.CHARACTERS)
    assert normalise(words, "any") == (words, None)  # nothing more to do


@pytest.mark.parametrize(
    "corpus, text, reason",
    [
        ("tedlium", "the <unk> said", "unknown words"),
        ("fisher_english", "so (( )) you know", "unintelligible words"),
        ("fisher_english", "so (( i think )) you know", "unintelligible words"),
        ("callhome_english", "((maybe)) yes", "unintelligible words"),
        ("callhome_english", "<? hm> yes", "unintelligible words"),
        ("callhome_english", "yes <German ja gut>", "foreign words"),
        ("broadcast_news", "the ((unclear)) report", "unintelligible words"),
        ("broadcast_news", "<b_unclear> so <e_unclear>", "unintelligible words"),
        ("broadcast_news", "<b_foreign language=Spanish> si", "foreign words"),
        ("edacc", "AND THEN <foreign>", "foreign words"),
        ("edacc", "<no-speech>", "unintelligible words"),
        ("switchboard", "[laughter] [noise]", "no transcript"),
        ("tedlium", "[NOISE] {BREATH}", "no transcript"),
        ("any", "", "no transcript"),
        ("any", "- ' .", "no transcript"),
        ("any", "he [laughs] said", "words in brackets"),
        ("any", "{unclosed", "words in brackets"),
        ("any", "5 % of $10", "symbols"),
        ("any", "москва", "letters that are not English"),
        ("any", "Łódź", "letters that are not English"),
    ],
)  # fmt: skip
def test_what_is_not_certain(corpus, text, reason):
    assert normalise(text, corpus) == ("", reason)
