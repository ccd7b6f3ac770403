"""Small English corpora in the layouts of their releases, of real speech: the prompts of
VoicePrompts' sample, at the corpus's rate and in its container.

``make_<corpus>(folder)`` makes one; with ``dirt`` also what real releases have wrong.
``english_tree(folder)`` makes what the recipe's training tests need.
"""

import csv
import gzip
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

SAMPLE = Path(__file__).parents[2] / "recipes/VoicePrompts/sample/en"
BOM = "\ufeff"
GAP = 0.4  # seconds between the utterances of a recording


@cache
def prompts():
    """[(words, samples at 8 kHz)]: what is plainly said and takes a second or more."""
    found = []
    lines = (SAMPLE / "core-sounds-en.txt").read_text(encoding="utf-8").splitlines()
    for line in sorted(lines):
        name, _, text = line.partition(": ")
        path = SAMPLE / f"{name}.flac"
        plain = text.strip(" .").replace(",", "").replace(".", "")
        if path.is_file() and plain.replace(" ", "").isalpha():
            samples, _ = soundfile.read(path, dtype="float32")
            if len(samples) > 8000:
                found.append((plain.lower(), samples))
    return found


def utterances(number, rate, first=0):
    """The next ``number`` prompts at a rate, over and over, each time a bit louder or
    softer: [(words, samples)]."""
    found = []
    for index in range(first, first + number):
        words, samples = prompts()[index % len(prompts())]
        samples = resample_poly(samples, rate, 8000) if rate != 8000 else samples
        found.append((words, (0.9 - 0.1 * (index // len(prompts()) % 5)) * samples))
    return found


def recording(number, rate, first=0):
    """One recording of several utterances: samples, [(start, stop in seconds, words)]."""
    pause = np.random.default_rng(first).normal(0, 1e-3, int(GAP * rate))
    pieces, spans, at = [pause], [], len(pause)
    for words, samples in utterances(number, rate, first):
        end = at + len(samples)
        spans.append((round(at / rate, 2), round(end / rate, 2), words))
        pieces += [samples, pause]
        at = end + len(pause)
    return np.concatenate(pieces), spans


def write(path, samples, rate, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(samples, -1, 1), rate, **kwargs)
    return path


def write_text(path, text, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\n", end).encode())
    return path


def cut(path, share=0.5):
    """Takes the end of a file away."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def pipe(path, size):
    """Makes a WAV one that was written to a pipe, with a placeholder for its size."""
    content = bytearray(path.read_bytes())
    for at in (4, content.index(b"data") + 4):
        content[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)


def shorten(path):
    """A SPHERE file that libsndfile cannot decode, as many of LDC's are."""
    header = "NIST_1A\n   1024\nchannel_count -i 2\nsample_rate -i 8000\n"
    header += "sample_coding -s25 ulaw,embedded-shorten-v2.00\nend_head\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode().ljust(1024) + b"ajkg" + bytes(2000))


LIBRISPEECH = {
    "train-clean-100": [19, 26],
    "train-other-500": [20],
    "dev-clean": [84],
    "test-clean": [61],
    "test-other": [1688],
    "train-clean-360": [40],
}


def make_librispeech(folder, number=3, dirt=False):
    """``LibriSpeech/<part>/<speaker>/<chapter>/*.flac`` and ``*.trans.txt``.

    Dirt, in train-clean-100: of speaker 26's, the first clip is empty, the second cut
    short, a fourth has no file; lines end in CRLF. Speaker 19 is also in dev-clean.
    """
    root, first = Path(folder) / "LibriSpeech", 0
    for part, speakers in LIBRISPEECH.items():
        for speaker in [*speakers, *([19] if dirt and part == "dev-clean" else [])]:
            chapter = root / part / str(speaker) / "198"
            name, lines = f"{speaker}-198", []
            for i, (words, samples) in enumerate(utterances(number, 16000, first)):
                write(chapter / f"{name}-{i:04d}.flac", samples, 16000)
                lines.append(f"{name}-{i:04d} {words.upper()}\n")
            first += number
            spoilt = dirt and speaker == 26
            if spoilt:
                (chapter / f"{name}-0000.flac").write_bytes(b"")
                cut(chapter / f"{name}-0001.flac")
                lines.append(f"{name}-{number:04d} THERE IS NO SUCH CLIP\n")
            end = "\r\n" if spoilt else "\n"
            write_text(chapter / f"{name}.trans.txt", "".join(lines), end)
    return root


def make_tedlium(folder, number=3, dirt=False):
    """``TEDLIUM_release-3/legacy/{train,dev,test}/{sph,stm}``.

    Dirt, in train: a talk without sph, one of an empty file, one of shorten, a sph with
    no STM; in ``Talk_2010``: ``<unk>``, segments within another, one that ends 0.3 s
    behind the end, one 0.8 s, one that begins there, one of no duration, one not to be
    scored.
    """
    root, first = Path(folder) / "TEDLIUM_release-3", 0
    for part, talks in {"train": ["Talk_2010", "Speech_2011"], "dev": ["Dev_2009"],
                        "test": ["Test_2008"]}.items():  # fmt: skip
        legacy = root / "legacy" / part
        for talk in talks:
            samples, spans = recording(number, 16000, first)
            first += number
            write(legacy / f"sph/{talk}.sph", samples, 16000, format="NIST")
            if dirt and talk == "Talk_2010":
                start, stop, words = spans[0]
                last = len(samples) / 16000
                spans += [
                    (start + 0.2, stop - 0.2, words + " <unk>"),
                    (start + 0.3, stop - 0.3, words.replace("you", "you 've")),
                    (last - 1, last + 0.3, "{NOISE} thanks"),
                    (last + 1, last + 3, "beyond"),
                    (start, start, "nothing"),
                    (0.0, start, "ignore_time_segment_in_scoring"),
                    (last - 1, last + 0.8, "far beyond"),
                ]
            lines = [
                f"{talk} 1 {talk} {start:.2f} {stop:.2f} <o,f0,male> {words}\n"
                for start, stop, words in spans
            ]
            write_text(legacy / f"stm/{talk}.stm", "".join(lines))
    if dirt:
        legacy = root / "legacy/train"
        for talk in ("Lost_2001", "Empty_2001", "Shorten_2001"):
            line = f"{talk} 1 {talk} 1.00 2.00 <o,f0,male> lost\n"
            write_text(legacy / f"stm/{talk}.stm", line)
        (legacy / "sph/Empty_2001.sph").write_bytes(b"")
        shorten(legacy / "sph/Shorten_2001.sph")
        write(legacy / "sph/Bare_2001.sph", samples, 16000, format="NIST")
    return root


NITE = 'xmlns:nite="http://nite.sourceforge.net/"'
AMI = {"ES2002a": ["FEE005", "MEE006"], "ES2011a": ["FEE041", "MEE042"],
       "ES2004a": ["FEE013", "MEE014"]}  # fmt: skip


def make_ami(folder, number=3, dirt=False):
    """``wav_db/<meeting>/audio/*.wav`` (headsets, and the first microphone of the first
    array) and ``ami_public_manual_1.6.2``: ES2002a is of train, ES2011a of dev and
    ES2004a of test.

    Dirt, in ES2002a: the last word of the second headset is beyond the end; three
    headsets are there of speakers that four are annotated for: the third's file is lost.
    In the dev meeting the second headset is an empty file.
    """
    root, first = Path(folder) / "ami", 0
    manual = root / "ami_public_manual_1.6.2"
    meetings = []
    for meeting, speakers in AMI.items():
        names = [*speakers, "MIO001", "MIO002"] if dirt and number > 1 else speakers
        if meeting != "ES2002a":
            names = speakers
        agents, audio = [], []
        for channel, speaker in enumerate(names):
            agent = "ABCD"[channel]
            samples, spans = recording(number, 16000, first)
            first += number
            audio.append(samples)
            agents.append(
                f'<speaker nite:id="x" nxt_agent="{agent}" global_name="{speaker}" '
                f'channel="{channel}"/>'
            )
            segments, words = [], []
            for start, stop, text in spans:
                segments.append(
                    f'<segment nite:id="s" channel="{channel}" transcriber_start='
                    f'"{start - 0.1:.2f}" transcriber_end="{stop + 0.1:.2f}"/>'
                )
                said = text.split()
                edges = np.linspace(start, stop, len(said) + 1)
                words += [
                    f'<w nite:id="w" starttime="{a:.2f}" endtime="{b:.2f}">{word}</w>'
                    for a, b, word in zip(edges, edges[1:], said)
                ]
                words.append(
                    f'<w nite:id="w" starttime="{stop:.2f}" endtime="{stop:.2f}" '
                    'punc="true">.</w>'
                )
            if dirt and meeting == "ES2002a" and channel == 1:
                segments.append(
                    '<segment nite:id="s" channel="1" transcriber_start="900.0" '
                    'transcriber_end="902.0"/>'
                )
                words.append('<w nite:id="w" starttime="900.5" endtime="901.5">Bye</w>')
            for kind, elements in (("segments", segments), ("words", words)):
                content = "\n".join(elements)
                write_text(
                    manual / kind / f"{meeting}.{agent}.{kind}.xml",
                    '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n'
                    f'<nite:root nite:id="r" {NITE}>\n{content}\n</nite:root>\n',
                )
        meetings.append(
            f'<meeting nite:id="m" observation="{meeting}">{"".join(agents)}</meeting>'
        )
        folder = root / "wav_db" / meeting / "audio"
        for channel, samples in enumerate(audio):
            write(folder / f"{meeting}.Headset-{channel}.wav", samples, 16000)
        longest = max(map(len, audio))
        far = sum(np.pad(samples, (0, longest - len(samples))) for samples in audio) / 4
        write(folder / f"{meeting}.Array1-01.wav", far, 16000)
    content = "\n".join(meetings)
    write_text(
        manual / "corpusResources/meetings.xml",
        f'<?xml version="1.0"?>\n<nite:root nite:id="r" {NITE}>\n{content}\n</nite:root>',
    )
    if dirt:
        (root / "wav_db/ES2002a/audio/ES2002a.Headset-2.wav").unlink()
        (root / "wav_db/ES2011a/audio/ES2011a.Headset-1.wav").write_bytes(b"")
    return root


VOXPOPULI = ("session_id", "id_", "original_text", "normed_text", "speaker_id", "split",
             "gender", "is_gold_transcript", "accent", "vad", "start_time",
             "end_time")  # fmt: skip


def make_voxpopuli(folder, number=3, dirt=False):
    """``raw_audios/en/<year>/*_en.ogg`` and ``asr_en.tsv.gz``; the accented set, whose
    audio is in ``raw_audios/original``, and ``asr_en_accented.tsv.gz``.

    Dirt, in train: a byte-order mark and CRLF, rows of a session without a file, and a
    speaker, 7, who is also in test.
    """
    root, first = Path(folder) / "voxpopuli", 0
    sets = {
        "en": {"20150101-0900-PLENARY-1": "train", "20150102-0900-PLENARY-2": "dev",
               "20150103-0900-PLENARY-3": "test"},
        "en_accented": {"20180104-0900-PLENARY-4": "test"},
    }  # fmt: skip
    for name, sessions in sets.items():
        lines = []
        for session, split in sessions.items():
            samples, spans = recording(number, 16000, first)
            first += number
            kind = "en" if name == "en" else "original"
            write(root / f"raw_audios/{kind}/{session[:4]}/{session}_{kind}.ogg",
                  samples, 16000, format="OGG", subtype="VORBIS")  # fmt: skip
            for i, (start, stop, words) in enumerate(spans):
                speaker = {"train": 5, "dev": 6, "test": 7}[split]
                if dirt and i == 1:
                    speaker = 7
                lines.append([session, f"id{i}", words.capitalize() + ".", words,
                              str(speaker), split, "male", "True", "None", "[]",
                              str(start), str(stop)])  # fmt: skip
        if dirt and name == "en":
            lost = ["20160101-0900-PLENARY-9", *lines[0][1:]]
            lines += [lost, lost]
        end = "\r\n" if dirt else "\n"
        text = "".join("|".join(line) + end for line in [VOXPOPULI, *lines])
        text = BOM + text if dirt else text
        (root / f"asr_{name}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    return root


def two_sides(number, first):
    """A telephone call at 8 kHz: samples, shape (samples, 2), and the spans of each."""
    one, spans_of_one = recording(number, 8000, first)
    other, spans_of_other = recording(number, 8000, first + number)
    longest = max(len(one), len(other))
    both = np.stack([np.pad(x, (0, longest - len(x))) for x in (one, other)], 1)
    return both, [spans_of_one, spans_of_other]


SPHERE = {"format": "NIST", "subtype": "ULAW"}


def make_switchboard(folder, number=3, dirt=False):
    """``LDC97S62/swb1_d1/data/sw0NNNN.sph``, two channels of µ-law, and
    ``swb_ms98_transcriptions/NN/NNNN/swNNNN{A,B}-ms98-a-trans.text``: four calls.

    Dirt: a call without a transcript, a transcript without a call, a call of shorten.
    In the first call: marks, a silence, a segment beyond the end, one of noise only.
    """
    root = Path(folder) / "switchboard"
    calls = [2001, 2005, 2006, 2008]
    for index, call in enumerate(calls):
        samples, sides = two_sides(number, 2 * number * index)
        write(root / f"LDC97S62/swb1_d1/data/sw0{call}.sph", samples, 8000, **SPHERE)
        for side, spans in zip("AB", sides):
            lines = [(start, stop, words) for start, stop, words in spans]
            if dirt and (call, side) == (2001, "A"):
                start, stop, _ = spans[0]
                end = len(samples) / 8000
                lines += [
                    (0.0, start, "[silence]"),
                    (start, stop, "[laughter-yeah] th[at]- {yuppiedom} about_1"),
                    (start, stop, "[noise] [laughter]"),
                    (end + 2, end + 3, "okay"),
                ]
            name = f"sw{call}{side}-ms98-a"
            text = "".join(
                f"{name}-{i:04d} {start:.6f} {stop:.6f} {words}\n"
                for i, (start, stop, words) in enumerate(lines, 1)
            )
            write_text(transcripts(root, call) / f"{name}-trans.text", text)
    if dirt:
        write(root / "LDC97S62/swb1_d1/data/sw02010.sph", samples, 8000, **SPHERE)
        shorten(root / "LDC97S62/swb1_d1/data/sw02012.sph")
        for call, side in ((2012, "A"), (2012, "B"), (2015, "A"), (2015, "B")):
            name = f"sw{call}{side}-ms98-a"
            line = f"{name}-0001 0.0 1.0 hello\n"
            write_text(transcripts(root, call) / f"{name}-trans.text", line)
    return root


def transcripts(root, call):
    return root / f"swb_ms98_transcriptions/{str(call)[:2]}/{call}"


def make_fisher(folder, number=3, dirt=False):
    """``LDC2004S13/fe_03_p1_sph1/audio/000/*.sph`` and
    ``LDC2004T19/{data/trans/000/*.txt,doc/fe_03_p1_calldata.tbl}``: two calls.

    Dirt: a call without a transcript and a transcript without a call; in the first call a
    segment with words not understood, and one that overlaps it.
    """
    root = Path(folder) / "fisher"
    head = "CALL_ID,DATE_TIME,TOPICID,SIG_GRADE,CNV_GRADE,APIN,ASX.DL,APHNUM,APHSET,"
    table = [head + "APHTYPE,BPIN,BSX.DL,BPHNUM,BPHSET,BPHTYPE"]
    for index, call in enumerate(["00001", "00002", *(["00003", "00004"] * dirt)]):
        samples, sides = two_sides(number, 2 * number * index)
        name = f"fe_03_{call}"
        pins = 2 * index + 1000, 2 * index + 1001
        table.append(
            f"{call},20021216,ENG01,3,3,{pins[0]},m.a,1,h,c,{pins[1]},f.a,1,h,c"
        )
        if call != "00004":
            path = root / f"LDC2004S13/fe_03_p1_sph1/audio/000/{name}.sph"
            write(path, samples, 8000, **SPHERE)
        lines = [(*span, "A") for span in sides[0]] + [
            (*span, "B") for span in sides[1]
        ]
        if dirt:
            start, stop, _ = sides[0][0]
            lines.append((start + 0.1, stop - 0.1, "(( was it )) i._b._m.", "A"))
        text = f"# {name}.sph\n# Transcribed at the LDC\n\n" + "".join(
            f"{start:.2f} {stop:.2f} {side}: {words}\n\n"
            for start, stop, words, side in sorted(lines)
        )
        if call != "00003":
            write_text(root / f"LDC2004T19/data/trans/000/{name}.txt", text)
    write_text(root / "LDC2004T19/doc/fe_03_p1_calldata.tbl", "\n".join(table) + "\n")
    return root


def make_callhome(folder, number=3, dirt=False):
    """``LDC97S42/data/{train,devtest,evltest}/en_NNNN.sph`` and
    ``LDC97T14/transcrpt/{train,devtest,evaltest}/en_NNNN.txt``.

    Dirt, in train: marks of all kinds and a foreign word.
    """
    root = Path(folder) / "callhome"
    for index, (part, call) in enumerate(
        {"train": "en_4065", "devtest": "en_4157", "evaltest": "en_4077"}.items()
    ):
        samples, sides = two_sides(number, 2 * number * index)
        place = part.replace("evaltest", "evltest")
        write(root / f"LDC97S42/data/{place}/{call}.sph", samples, 8000, **SPHERE)
        lines = [(*span, "A") for span in sides[0]] + [
            (*span, "B") for span in sides[1]
        ]
        if dirt and part == "train":
            start, stop, _ = sides[0][0]
            marks = "%ah {laugh} &Bill said **zippy** [static] no -- yes"
            lines += [(start, stop, marks, "A"), (start, stop, "<German ja>", "A")]
        text = "".join(
            f"{start:.2f} {stop:.2f} {side}: {words}\n\n"
            for start, stop, words, side in sorted(lines)
        )
        write_text(root / f"LDC97T14/transcrpt/{part}/{call}.txt", text)
    return root


def make_hub4(folder, number=3, dirt=False):
    """``LDC98S71/*/ea9801NN.sph`` and ``LDC98T28/*/transcrp/ea9801NN.sgml``: three
    broadcasts, each of one speaker; two segments in each turn.

    Dirt: the second broadcast has no transcript, so that a reader that goes by position
    takes the third's for it; CRLF; breaths and names in the first; overlapping speech.
    """
    root = Path(folder) / "hub4"
    for index in range(3):
        name = f"ea98010{index + 1}"
        samples, spans = recording(2 * number, 16000, 2 * number * index)
        path = root / f"LDC98S71/hub4e_97_1/{name}.sph"
        write(path, samples, 16000, format="NIST")
        lines = [
            f"<episode filename={name}.sph program=CNN_News language=English>",
            f"<section type=report startTime=0 endTime={spans[-1][1]}>",
        ]
        for turn in range(number):
            (start, _, words), (middle, stop, more) = spans[2 * turn : 2 * turn + 2]
            if dirt and index == 0 and turn == 0:
                words = "{breath ^Peter said " + words
            lines.append(
                f"<turn speaker=Speaker_{index} spkrtype=male startTime={start} "
                f"endTime={stop}>"
            )
            lines += [f"<time sec={start}>", words, f"<time sec={middle}>", more]
            lines.append("</turn>")
        lines += ["</section>", "</episode>"]
        if not (dirt and index == 1):
            sgml = root / f"LDC98T28/hub4e97_trans/transcrp/{name}.sgml"
            write_text(sgml, "\n".join(lines) + "\n", "\r\n" if dirt else "\n")
    return root


EDACC = {
    "PARTICIPANT_ID": ["EDACC-C06-A", "EDACC-C06-B", "EDACC-C07-A", "EDACC-C07-B"],
    "What is your gender?": ["Female", "Male", "Female", "Male"],
    "What’s your ethnic background? ": ["Indian", "Scottish", "", "Kenyan"],
    "What is your higher level of education?": ["MSc", "BSc", "BSc", "PhD"],
    "How would you describe your accent in English? (e.g. Italian, Glaswegian)": [
        "Indian", "Scottish", "Jamaican", "Kenyan"],
    "Do you speak any second languages? separate them with commas  "
    "(e.g., Mandarin,Catalan,French )": ["Hindi,Tamil", "", "", "Swahili"],
    "What’s your year of birth? (e.g., 1992)": [1990, 1991, 1992, 1993],
    "What year did you start learning English? (e.g., 1999)": [1995, "", "", 1999],
}  # fmt: skip


def make_edacc(folder, number=3, dirt=False):
    """``edacc/edacc_v1.0/{data,dev,test}`` and ``linguistic_background.csv``.

    Dirt: a byte-order mark in the table, an empty recording that test's segments name, a
    segment not to be scored, marks.
    """
    root = Path(folder) / "edacc"
    corpus = root / "edacc_v1.0"
    for index, (part, call) in enumerate({"dev": "C06", "test": "C07"}.items()):
        name = f"EDACC-{call}"
        samples, spans = recording(2 * number, 32000, 2 * number * index)
        write(corpus / f"data/{name}.wav", samples, 32000)
        lines = [
            (f"{name}-{i:04d}", name, start, stop, f"{name}-{'AB'[i % 2]}", words)
            for i, (start, stop, words) in enumerate(spans)
        ]
        if dirt:
            start, stop, words = spans[0]
            speaker = f"{name}-A"
            lines += [
                (f"{name}-0900", name, 0.0, 0.3, speaker,
                 "IGNORE_TIME_SEGMENT_IN_SCORING"),
                (f"{name}-0901", name, start, stop, speaker, f"<laugh> {words.upper()}"),
                (f"{name}-0902", name, start, stop, speaker, "so <foreign>"),
            ]  # fmt: skip
            if part == "test":
                speaker = f"{name}-B"
                lines.append(("EDACC-C08-0000", "EDACC-C08", 0.0, 1.0, speaker, "gone"))
        files = {
            "segments": [f"{n} {rec} {a} {b}" for n, rec, a, b, _, _ in lines],
            "text": [f"{n} {words}" for n, _, _, _, _, words in lines],
            "utt2spk": [f"{n} {speaker}" for n, _, _, _, speaker, _ in lines],
            "spk2gender": [f"{name}-A f", f"{name}-B m"],
            "conv.list": [name],
        }
        for file, content in files.items():
            write_text(corpus / part / file, "\n".join(content) + "\n")
    if dirt:
        (corpus / "data/EDACC-C08.wav").write_bytes(b"")
    encoding = "utf-8-sig" if dirt else "utf-8"
    with open(corpus / "linguistic_background.csv", "w", encoding=encoding) as file:
        csv.writer(file).writerows([EDACC.keys(), *zip(*EDACC.values())])
    return root


def make_l2_arctic(folder, number=3, dirt=False):
    """``<SPEAKER>/{wav,transcript}`` and ``suitcase_corpus/{wav,transcript}``; Arabic,
    Hindi, Korean, Chinese, Vietnamese and Spanish speakers.

    Dirt, of HKK: the first clip cut short, the second's audio and the third's transcript
    lost.
    """
    root = Path(folder) / "l2arctic_release_v5.0"
    speakers = ["ABA", "RRBI", "TNI", "HKK", "BWC", "HQTV", "EBVS"]
    for index, speaker in enumerate(speakers):
        for i, (words, samples) in enumerate(utterances(number, 44100, number * index)):
            name, place = f"arctic_a{i + 1:04d}", root / speaker
            write(place / f"wav/{name}.wav", samples, 44100)
            write_text(place / f"transcript/{name}.txt", words.capitalize() + ".\n")
    place = root / "HKK"
    if dirt:
        cut(place / "wav/arctic_a0001.wav")
        (place / "wav/arctic_a0002.wav").unlink()
        (place / "transcript/arctic_a0003.txt").unlink()
    (words, samples), *_ = utterances(1, 44100, 3)
    write(root / "suitcase_corpus/wav/aba.wav", samples, 44100)
    write_text(root / "suitcase_corpus/transcript/aba.txt", words)
    return root


def make_commonvoice(folder, number=4):
    """``cv-corpus-17.0-2024-03-15/en``: in each split clips of two accents in turn."""
    root, first = Path(folder) / "cv-corpus-17.0-2024-03-15", 0
    for split in ("train", "dev", "test"):
        lines = ["client_id\tpath\tsentence\taccents"]
        for i, (words, samples) in enumerate(utterances(number, 48000, first), first):
            path = root / f"en/clips/common_voice_en_{i}.mp3"
            write(path, samples, 48000, format="MP3")
            accent = "Australian English" if i % 2 else "England English"
            lines.append(f"s{i}\t{path.name}\t{words.capitalize()}!\t{accent}")
        first += number
        write_text(root / f"en/{split}.tsv", "\n".join(lines) + "\n")
    return root


def make_ljspeech(folder, number=3):
    """``LJSpeech-1.1/{metadata.csv,wavs}``."""
    root, lines = Path(folder) / "LJSpeech-1.1", []
    for i, (words, samples) in enumerate(utterances(number, 22050)):
        write(root / f"wavs/LJ001-{i:04d}.wav", samples, 22050)
        lines.append(f"LJ001-{i:04d}|{words.capitalize()}.|{words.capitalize()}.\n")
    write_text(root / "metadata.csv", "".join(lines))
    return root


def english_tree(folder):
    """Corpora for training tests: half a minute of speech for pre-training in each of
    LibriSpeech, TED-LIUM and AMI, and L2-ARCTIC, which is unseen.

    Returns
    -------
    list of dict
        ``domains`` for ``prepare_multi_domain_english``; folders are below ``folder``.
    """
    libri, ted = make_librispeech(folder, 6), make_tedlium(folder, 8)
    ami, unseen = make_ami(folder, 8), make_l2_arctic(folder, 3)
    parts = {"pretrain": ["train"], "dev": ["dev"], "test": ["test"]}
    libri_parts = {
        "pretrain": ["train-clean-100", "train-other-500"],
        "finetune": ["train-clean-100"],
        "dev": ["dev-clean"],
        "test": ["test-clean", "test-other"],
    }
    return [
        {"name": "libri", "corpus": "librispeech", "folder": str(libri),
         "splits": libri_parts},
        {"name": "ted", "corpus": "tedlium", "folder": str(ted), "splits": parts},
        {"name": "ami", "corpus": "ami", "folder": str(ami), "splits": parts,
         "options": {"mic": "ihm", "partition": "full-corpus-asr"}},
        {"name": "hindi", "corpus": "l2_arctic", "folder": str(unseen),
         "splits": {"test": ["read"]}, "where": {"accent": ["Hindi"]}},
    ]  # fmt: skip
