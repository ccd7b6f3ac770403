"""What a prepare script reports at its end: how much there is, and what is left out."""

from collections import Counter, defaultdict
from dataclasses import dataclass

MAX_ALIGNED = 40
ALL_SPLITS = "all"  # for what cannot be attributed to a single split


@dataclass
class Total:
    """Size of one split of a domain: numbers of utterances, and seconds of audio."""

    utterances: int = 0
    transcribed: int = 0
    seconds: float = 0.0


class Summary:
    """Counts what manifests hold, what they leave out, and why.

    Attributes
    ----------
    totals : dict
        {(domain, split): Total}, in the order in which they are first mentioned.
    left_out, without_transcript, notes : dict
        {(domain, split): Counter of reasons}.

    Example
    -------
    >>> summary = Summary()
    >>> summary.add("libri", "pretrain", seconds=5400, transcribed=2, utterances=3)
    >>> summary.untranscribed("libri", "pretrain", "digits")
    >>> summary.leave_out("libri", "pretrain", "unreadable", 2)
    >>> print(summary.table())
    | domain | split    | utterances | transcribed | hours |
    |--------|----------|------------|-------------|-------|
    | libri  | pretrain | 3          | 2           | 1.50  |
    <BLANKLINE>
    | domain | split    | left out     | without transcript |
    |--------|----------|--------------|--------------------|
    | libri  | pretrain | 2 unreadable | 1 digits           |
    """

    def __init__(self):
        self.totals = defaultdict(Total)
        self.left_out = defaultdict(Counter)
        self.without_transcript = defaultdict(Counter)
        self.notes = defaultdict(Counter)

    def add(self, domain, split, seconds, transcribed, utterances=1):
        """Counts rows of a manifest.

        Arguments
        ---------
        domain, split : str
            Where the rows belong.
        seconds : float
            Total duration of their audio.
        transcribed : bool or int
            Number of rows that have a transcript.
        utterances : int
            Number of rows.
        """
        total = self.totals[domain, split]
        total.utterances += int(utterances)
        total.transcribed += int(transcribed)
        total.seconds += float(seconds)

    def add_row(self, split, row, no_words="", note=""):
        """Counts one row of a manifest.

        Arguments
        ---------
        split : str
            Where the row belongs.
        row : Mapping
            The row, as ``manifest.write`` takes it.
        no_words : str or None
            Why the row has no words, if it has none.
        note : str
            What is unusual about it.
        """
        self.add(row["domain"], split, row["duration"], bool(row["wrd"]))
        if note:
            self.note(row["domain"], split, note)
        if no_words:
            self.untranscribed(row["domain"], split, no_words)

    def leave_out(self, domain, split, reason, count=1):
        """Counts utterances that are not in the manifest, if ``count`` is not 0."""
        if count:
            if split != ALL_SPLITS:  # has its line in the table even if nothing is left
                self.totals[domain, split]
            self.left_out[domain, split][reason] += int(count)

    def untranscribed(self, domain, split, reason, count=1):
        """Counts rows that are in the manifest without words, if ``count`` is not 0."""
        if count:
            self.without_transcript[domain, split][reason] += int(count)

    def note(self, domain, split, reason, count=1):
        """Counts unusual rows that are in the manifest, if ``count`` is not 0."""
        if count:
            self.notes[domain, split][reason] += int(count)

    def table(self):
        """Two Markdown tables with a line for each split of a domain.

        The first has its size, and the sum of each split if there are several domains.
        The second has what was left out, what has no transcript and what was noted, the
        most frequent reason first; it is omitted if there is nothing of these."""
        lines = []
        for key in self._in_order(self.totals):
            n = self.totals[key]
            lines.append((*key, n.utterances, n.transcribed, f"{n.seconds / 3600:.2f}"))
        splits = dict.fromkeys(split for _, split in self.totals)
        if len({domain for domain, _ in self.totals}) > 1:
            for split in splits:
                of_split = [n for (_, s), n in self.totals.items() if s == split]
                utterances = sum(n.utterances for n in of_split)
                transcribed = sum(n.transcribed for n in of_split)
                hours = sum(n.seconds for n in of_split) / 3600
                lines.append(("all", split, utterances, transcribed, f"{hours:.2f}"))
        header = ("domain", "split", "utterances", "transcribed", "hours")
        text = markdown(header, lines)

        used = {title: by_key for title, by_key in self._reasons() if by_key}
        lines = [
            (*key, *(in_words(by_key.get(key)) for by_key in used.values()))
            for key in self._in_order(key for by_key in used.values() for key in by_key)
        ]
        if lines:
            text += "\n\n" + markdown(("domain", "split", *used), lines)
        return text

    def table_by_domain(self, splits, unit="utterances"):
        """Two Markdown tables that stay short if there are many domains.

        The first has the hours of each domain, the second has the reasons for all domains
        together.

        Arguments
        ---------
        splits : sequence of str
            The columns.
        unit : str
            What the second table counts.

        Returns
        -------
        str
        """
        cells, all_hours = {}, Counter()
        for (domain, split), total in self.totals.items():
            cells.setdefault(domain, {})[split] = f"{total.seconds / 3600:.2f}"
            all_hours[split] += total.seconds / 3600
        cells["all"] = {split: f"{hours:.2f}" for split, hours in all_hours.items()}
        lines = [
            (domain, *(of_domain.get(split, "") for split in splits))
            for domain, of_domain in cells.items()
        ]
        text = markdown(("hours", *splits), lines)
        lines = []
        for title, counters in self._reasons():
            by_reason = {}
            for (_, split), counter in counters.items():
                for reason, count in counter.items():
                    by_reason.setdefault(reason, Counter())[split] += count
            for reason, counts in sorted(by_reason.items()):
                lines.append((f"{title}: {reason}", *(counts[s] for s in splits)))
        return f"{text}\n\n{markdown((unit, *splits), lines)}" if lines else text

    def _reasons(self):
        """The counters of reasons, with their titles."""
        return [
            ("left out", self.left_out),
            ("without transcript", self.without_transcript),
            ("noted", self.notes),
        ]

    def _in_order(self, keys):
        """Each key once, sorted by domain and then by split, both in the order in which
        they were first mentioned."""
        known = [*self.totals, *self.left_out, *self.without_transcript, *self.notes]
        domains = list(dict.fromkeys(domain for domain, _ in known))
        splits = list(dict.fromkeys(split for _, split in known))
        domains, splits = (
            {name: at for at, name in enumerate(names)} for names in (domains, splits)
        )
        return sorted(set(keys), key=lambda key: (domains[key[0]], splits[key[1]]))


def in_words(counter):
    """A counter as ``3 unreadable, 1 empty``; None gives an empty string."""
    return ", ".join(
        f"{n} {reason}" for reason, n in (counter or Counter()).most_common()
    )


def markdown(header, lines):
    """A Markdown table from a header and lines of values. Its columns are aligned, except
    for values that are wider than ``MAX_ALIGNED``."""
    cells = [[str(value).replace("|", "\\|") for value in line] for line in lines]
    widths = [min(MAX_ALIGNED, max(map(len, column))) for column in zip(header, *cells)]
    rule = ["-" * (width + 2) for width in widths]
    table = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |"
        for line in [header, *cells]
    ]
    return "\n".join([table[0], "|" + "|".join(rule) + "|", *table[1:]])
