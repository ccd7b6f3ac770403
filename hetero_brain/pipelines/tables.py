"""Tables of error rates: as Markdown, as LaTeX, and as records for a CSV; and numbers as
messages have them."""

from dataclasses import dataclass
from textwrap import fill

from ..recognition.error_rates import UNITS, with_interval

MAX_COLUMNS = 8  # with more domains a table has them as rows, and models as columns
ABSENT = "–"
RECORD = ("split", "judge", "rate", "model", "domain")  # and what a cell holds:
RECORD += ("percent", "low", "high", "excludes_0")
TELLING = 90  # %: where no WER is below, none says anything
INTERVALS = (
    "Intervals are from a bootstrap over the utterances: that other seeds or speakers "
    "would give other rates is not in them."
)
MARKED = (
    "{}: differences whose 95 % interval excludes 0. Each is looked at by itself; where "
    f"there is no difference, about one in twenty is marked by chance. {INTERVALS}"
)
UNMARKED = f"No difference has a 95 % interval that excludes 0. {INTERVALS}"
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"→": r"$\to$", "–": "--", "\\": r"\textbackslash{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def plain(number):
    """A number with its first two digits, and zeros rather than an exponent.

    Example
    -------
    >>> plain(0.0512), plain(352.7), plain(12345)
    ('0.051', '350', '12000')
    """
    return f"{float(f'{number:.2g}'):g}"


def rates(baselines):
    """What the tables of an experiment show: rates, and differences from baselines."""
    changes = ("CER - {}", "WER relative to {}")
    return [*UNITS] + [change.format(b) for change in changes for b in baselines]


def note(tables):
    """What the marks of some tables mean, or that there are none, and what intervals
    are; empty if there is no table."""
    if any(table.is_marked(cell) for table in tables for cell in table.cells.values()):
        return MARKED.format("In bold")
    if any(table.rate not in UNITS for table in tables):
        return UNMARKED
    return INTERVALS if tables else ""


def overview(rows, judge, baselines=(), models=None):
    """One judge's rates for a terminal: CER of each model and domain, and its changes
    from the baselines; and WER over all domains, if any is below :data:`TELLING`.

    Arguments
    ---------
    rows, judge, models
        As for :func:`table`.
    baselines : sequence of str
        Models; without any, the rates have their intervals.

    Returns
    -------
    text : str
        Empty if the judge has no rows.
    excluding : list of bool
        For each change, whether its 95 % interval excludes 0.
    """
    own = [row for row in rows if row["judge"] == judge]
    order = list(models or dict.fromkeys(row["model"] for row in own))
    columns = list(dict.fromkeys(row["domain"] for row in own))
    of_all = [
        row for row in own if row["domain"] == columns[-1]
    ]  # all, or the only one
    texts, excluding = {}, []
    for row in own:
        place = row["model"], row["domain"]
        texts[place], found = rate_and_changes(row, baselines)
        excluding += found
    if any(row["WER"] < TELLING for row in of_all):
        texts |= {(row["model"], "WER"): f"{row['WER']:.1f}" for row in of_all}
        columns.append("WER")
    shown = [model for model in order if any(model == of for of, _ in texts)]
    if not shown:
        return "", []
    if len(columns) > MAX_COLUMNS:
        texts = {place[::-1]: text for place, text in texts.items()}
        shown, columns = columns, shown
    lines = [[row] + [texts.get((row, c), ABSENT) for c in columns] for row in shown]
    changes = f", and its change from {' and from '.join(baselines)}"
    title = f"{judge}: CER in %{changes if baselines else ', with 95 % intervals'}"
    return f"{title}\n{aligned([['', *columns], *lines])}", excluding


def rate_and_changes(row, baselines):
    """The CER of a row of :func:`overview`, as text with its changes; and for each of
    these, whether its interval excludes 0."""
    if not baselines:
        return with_interval(*(row["CER" + end] for end in ("", "_low", "_high"))), []
    texts, excluding = [], []
    for name in (f"CER - {baseline}" for baseline in baselines):
        if name in row:
            excluding.append(row[f"{name}_low"] > 0 or row[f"{name}_high"] < 0)
            texts.append(f"{row[name]:+.1f}{'*' * excluding[-1]}")
        else:
            texts.append(ABSENT)
    changes = f" ({', '.join(texts)})" if excluding else ""
    return f"{row['CER']:.1f}{changes}", excluding


def overviews(rows, judges, baselines=(), models=None):
    """The overviews of several judges, and a sentence on what they show; empty texts
    where there is nothing to show. Arguments are as for :func:`overview`."""
    found = [overview(rows, judge, baselines, models) for judge in judges]
    excluding = [one for _, ones in found for one in ones]
    marked = MARKED.format("*") if any(excluding) else UNMARKED
    sentence = fill(marked if excluding else INTERVALS, 88)
    return [*(text for text, _ in found), sentence]


def aligned(lines):
    """Lines, each a list of texts, as columns for a terminal.

    Example
    -------
    >>> print(aligned([["probe", "es"], ["scratch", "47.4"]]))
    probe    es
    scratch  47.4
    """
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def table(rows, judge, rate="CER", models=None):
    """One judge's rates as a table.

    Arguments
    ---------
    rows : list of dict
        From :func:`report.gather`.
    judge : str
        E.g. ``probe``.
    rate : str
        ``CER``, ``WER``, or a difference such as ``CER - scratch``.
    models : list of str
        Their order; that of ``rows`` by default. Models without the rate are left out.

    Returns
    -------
    Table
    """
    cells = {
        (row["model"], row["domain"]): tuple(
            row[rate + e] for e in ("", "_low", "_high")
        )
        for row in rows
        if row["judge"] == judge and rate in row
    }
    found = list(dict.fromkeys(model for model, _ in cells))
    models = [model for model in models or found if model in found]
    domains = list(dict.fromkeys(domain for _, domain in cells))
    return Table(judge, rate, models, domains, cells)


@dataclass(frozen=True)
class Table:
    """One judge's rates.

    Attributes
    ----------
    judge, rate : str
        As for :func:`table`.
    models, domains : list of str
        In their order.
    cells : dict
        (model, domain) → the rate and the ends of its 95 % interval, in percent.
    """

    judge: str
    rate: str
    models: list
    domains: list
    cells: dict

    def is_marked(self, cell):
        """Whether a cell is a difference whose interval excludes 0."""
        _, low, high = cell
        return self.rate not in UNITS and (low > 0 or high < 0)

    def lines(self, name, text, mark):
        """The header and the rows, each a list of texts.

        Models are rows and domains columns, or the other way round if there are many
        domains.

        Arguments
        ---------
        name, text, mark : callable
            How a name, and the text of a cell, are written, and how that is marked.
        """
        texts = {}
        for place, cell in self.cells.items():
            written = text(with_interval(*cell))
            texts[place] = mark(written) if self.is_marked(cell) else written
        rows, columns = self.models, self.domains
        if len(columns) > MAX_COLUMNS:
            rows, columns = columns, rows
            texts = {place[::-1]: written for place, written in texts.items()}
        yield [name(f"{self.judge}, {self.rate} %"), *map(name, columns)]
        for row in rows:
            found = [texts.get((row, column), name(ABSENT)) for column in columns]
            yield [name(row), *found]

    def markdown(self):
        """As Markdown, with what is marked in bold."""
        header, *rows = self.lines(str, str, "**{}**".format)
        lines = [f"| {' | '.join(line)} |" for line in (header, *rows)]
        return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])

    def latex(self, caption):
        """As a LaTeX table with the rules of the package booktabs, and with what is
        marked in bold. ``caption`` is plain text."""
        header, *rows = self.lines(
            lambda name: name.translate(LATEX),
            lambda text: text.replace("-", "$-$"),
            r"\textbf{{{}}}".format,
        )
        body = [rf"{' & '.join(line)} \\" for line in (header, *rows)]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{caption.translate(LATEX)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
                r"\toprule",
                body[0],
                r"\midrule",
                *body[1:],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )

    def records(self, split):
        """Its cells as the rows of a CSV with the columns :data:`RECORD`."""
        for model in self.models:
            for domain in self.domains:
                if cell := self.cells.get((model, domain)):
                    place = split, self.judge, self.rate, model, domain
                    marked = "" if self.rate in UNITS else self.is_marked(cell)
                    yield *place, *cell, marked
