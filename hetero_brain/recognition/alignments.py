"""References and hypotheses aligned, as SpeechBrain's recipes write them."""

from pathlib import Path

from speechbrain.utils.metric_stats import ErrorRateStats

from .error_rates import UNITS, tokens


def write_alignments(utterances, path, character_domains=()):
    """Write SpeechBrain's summary of errors and the alignment of every utterance.

    Arguments
    ---------
    utterances : list of dict
        From :meth:`CTCBrain.note_errors`.
    path : str or Path
        The file of their results. Beside ``test.json``, say, ``wer_test.txt`` is written,
        with words aligned, and ``cer_test.txt``, with characters.
    character_domains : sequence of str
        Domains in which a character is a word.
    """
    path = Path(path)
    for rate, unit in UNITS.items():
        stats = ErrorRateStats()
        references, hypotheses = (
            [tokens(u[text], unit, u["domain"], character_domains) for u in utterances]
            for text in ("reference", "hypothesis")
        )
        stats.append([u["id"] for u in utterances], hypotheses, references)
        file = path.with_name(f"{rate.lower()}_{path.stem}.txt")
        with open(file, "w", encoding="utf-8") as stream:
            stats.write_stats(stream)
