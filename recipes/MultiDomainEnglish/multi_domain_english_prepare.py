"""Prepares English corpora, each in the layout of its release, as the domains of one
experiment: any that lhotse reads, and CommonVoice.

A domain is an entry of the list ``domains`` in the YAML; only what is listed is looked
for:

.. code-block:: yaml

    domains:
      - name: libri
        corpus: librispeech          # lhotse's prepare_<corpus>, or commonvoice
        folder: !ref <data_root>/LibriSpeech
        splits:                      # what for: lhotse's names of the parts
          pretrain: [train-clean-100, train-clean-360, train-other-500]
          finetune: [train-clean-100]
          dev: [dev-clean]
          test: [test-clean, test-other]   # several: domains libri/test-clean, …
        max_hours: {pretrain: 860, finetune: 100}        # optional
      - name: callhome
        corpus: callhome_english
        folder: !ref <data_root>/LDC97S42
        options: {transcript_dir: !ref <data_root>/LDC97T14}   # of lhotse's function
        splits: {test: [evaltest]}
      - name: switchboard
        corpus: switchboard
        folder: !ref <data_root>/LDC97S62
        options: {transcripts_dir: !ref <data_root>/swb_ms98_transcriptions}
        splits:                      # of a corpus without parts: percent of its speakers
          pretrain: ["all[0:90]"]
          dev: ["all[90:95]"]
          test: ["all[95:100]"]
      - name: hindi
        corpus: l2_arctic
        folder: !ref <data_root>/l2arctic_release_v5.0
        where: {accent: [Hindi]}     # a field of lhotse's supervisions, or CommonVoice's
        splits: {test: [read]}       # columns
      - name: ljspeech               # one speaker, who would be kept out of training
        corpus: ljspeech
        folder: !ref <data_root>/LJSpeech-1.1
        keep_speakers_apart: False   # percent of utterances, then
        splits: {finetune: ["all[0:98]"], dev: ["all[98:99]"], test: ["all[99:100]"]}

Manifests: ``pretrain.csv``, ``train.csv`` (``finetune``), ``dev.csv`` and ``test.csv``,
those that have rows. ``train.csv`` and ``test.csv`` have only utterances with words.

What is left out, and counted in the table: all that ``lhotse_corpora`` and
``commonvoice`` find to be of no use; from ``pretrain`` and ``finetune`` the speakers who
are in ``dev`` or ``test`` of the same corpus folder, whatever the entry, unless it has
``keep_speakers_apart: False``; what is over ``max_hours``, drawn at random by the seed,
so that a smaller cap is part of a larger one. What is kept without words: utterances of
which ``english_text`` cannot tell them.

Run it by itself on a YAML with ``domains``:
> python multi_domain_english_prepare.py DOMAINS.yaml SAVE_FOLDER --data_root DATA_ROOT
"""

import argparse
import json
import logging
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from speechbrain.utils.distributed import run_on_main

from hetero_brain.data import manifest
from hetero_brain.data.corpora import commonvoice
from hetero_brain.data.corpora.lhotse_corpora import check_corpus, read_corpus
from hetero_brain.data.corpora.segments import CorpusPart, Segment
from hetero_brain.data.corpora.summary import (
    ALL_SPLITS,
    HEARD,
    SPEAKER_HELD_OUT,
    Summary,
    hours_cap,
    keyed_hash,
    without_speakers,
)
from hetero_brain.errors import InputError, reported
from hetero_brain.pipelines.yaml_files import Text, load_tree, read_tree

sys.path.append(str(Path(__file__).resolve().parent))
from english_text import normalise  # noqa: E402

logger = logging.getLogger(__name__)

USES = {"pretrain": "pretrain", "finetune": "train", "dev": "dev", "test": "test"}
HELD_OUT = ("dev", "test")
LABELLED = ("finetune", "test")
ENTRY = ("name", "corpus", "folder", "splits")
OPTIONAL = ("max_hours", "options", "where")  # mappings
APART = "keep_speakers_apart"
KEYS = (*ENTRY, *OPTIONAL, APART)
HOW_TO_KEEP = """\
Name other parts for dev and test; or, if these have the same speakers, train on them,
too, by keep_speakers_apart: False in the entry. Percents are then of utterances, and
error rates of voices heard in training."""
NOT_COMMONVOICE = "corpus: commonvoice takes one option, language"
PSEUDO_SPLIT = re.compile(r"(.+)\[(\d+):(\d+)\]")


def prepare_multi_domain_english(domains, save_folder, data_root="", seed=0):
    """Writes the manifests of all domains, and nothing else.

    Call it on the main process only (``run_on_main``). It looks at every header again
    whenever it runs, and leaves a manifest that would not change as it is.

    Arguments
    ---------
    domains : list of dict
        The YAML's entries, see above.
    save_folder : str or Path
        Where the manifests go.
    data_root : str or Path
        ``{data_root}`` in manifests; files that are not below it have absolute paths.
    seed : int
        Draws the rows of ``max_hours``.

    Returns
    -------
    hetero_brain.data.corpora.summary.Summary
        Logged as a table, too.

    Raises
    ------
    InputError
        Naming all that is wrong in all entries, as far as it can be told without reading
        them, and what to do; else what is wrong with the first that cannot be read, or
        of which entries nothing is left to train on.
    """
    entries = check_entries(domains)
    summary = Summary()
    rows = {use: [] for use in USES}
    for entry, parts in read_entries(entries):
        for use, row in select(entry, parts, summary):
            rows[use].append(row)

    held_out = defaultdict(set)
    for row in (row for use in HELD_OUT for row in rows[use]):
        held_out[row.folder].add(row.segment.speaker)
    caps = {(e["name"], u): h for e in entries for u, h in e["max_hours"].items()}
    mixed = {entry["name"] for entry in entries if not entry[APART]}
    trained = [use for use in USES if use not in HELD_OUT]
    for use in trained:
        rows[use] = keep_apart(rows[use], held_out, mixed, summary, USES[use])
    check_rest(entries, rows, summary)
    for use, name in USES.items():
        for row in rows[use]:
            row.words, row.fault = normalise(row.segment.text, row.corpus)
        if use in LABELLED:
            for row in rows[use]:
                if not row.words:
                    summary.leave_out(row.domain, name, row.fault)
            rows[use] = [row for row in rows[use] if row.words]
        rows[use] = cap(rows[use], caps, use, seed, summary)
        count(rows[use], summary, name)
        write(Path(save_folder) / f"{name}.csv", rows[use], data_root)
    logger.info("English domains in %s\n%s", save_folder, summary.table())
    return summary


@dataclass(slots=True)
class Row:
    """A segment on its way into a manifest."""

    segment: Segment
    entry: str
    domain: str
    part: str
    corpus: str
    folder: str
    words: str = ""
    fault: str | None = None

    @property
    def id(self):
        """Unique in a manifest: parts of a corpus may have the same IDs."""
        return f"{self.entry}/{self.part}/{self.segment.id}"


# ------------------------------------------------------------------ 1. what is asked for


def check_entries(domains):
    """The entries with their defaults, once there is nothing wrong with them.

    Arguments
    ---------
    domains : list of dict
        As the YAML has them.

    Returns
    -------
    list of dict
        All of ``KEYS``; ``splits`` as {use: [(part, first percent, last percent)]}.

    Raises
    ------
    InputError
        Every fault of every entry, by the name of its domain.
    """
    faults, entries, names = [], [], Counter()
    if not isinstance(domains, list) or not domains:
        raise InputError("domains: a list of entries is needed")
    for number, entry in enumerate(domains, 1):
        label = entry.get("name") if isinstance(entry, Mapping) else None
        label = label or f"entry {number}"
        its = _entry_faults(entry)
        if not its:
            entry = {key: None for key in OPTIONAL} | {APART: True} | dict(entry)
            entry |= {key: dict(entry[key] or {}) for key in OPTIONAL}
            entry["where"] = {k: _list(v) for k, v in entry["where"].items()}
            entry["splits"], its = _splits(entry["splits"])
            its += _corpus_faults(entry)
            entries.append(entry)
        names[label] += 1
        if names[label] == 2:
            its.append("this name is taken; every domain needs its own")
        faults += [f"  {label}: {fault}" for fault in its]
    if faults:
        raise InputError("\n".join([f"domains: {len(faults)} fault(s)", *faults]))
    return entries


def _entry_faults(entry):
    """What is wrong with the form of an entry."""
    if not isinstance(entry, Mapping):
        return [f"not a mapping but {entry!r}"]
    faults = [f"no {key}" for key in ENTRY if not entry.get(key)]
    if unknown := sorted(set(entry) - set(KEYS)):
        faults.append(f"unknown keys {unknown}; known: {[*KEYS]}")
    if not isinstance(entry.get(APART, True), bool):
        faults.append(f"{APART}: {entry[APART]!r} is not True or False")
    for key in ("splits", *OPTIONAL):
        if entry.get(key) and not isinstance(entry[key], Mapping):
            faults.append(f"{key}: not a mapping but {entry[key]!r}")
    if not faults:
        splits, caps = entry["splits"], entry.get("max_hours") or {}
        if unknown := sorted(set(splits) - set(USES)):
            faults.append(f"splits: {unknown} unknown; known: {list(USES)}")
        for use, hours in caps.items():
            if use not in splits:
                faults.append(f"max_hours: {use} is not in splits")
            if not isinstance(hours, (int, float)) or not hours > 0:
                faults.append(f"max_hours: {use}: {hours!r} is no number of hours")
    return faults


def _splits(splits):
    """{use: [(part, first percent, last percent)]}, and what is wrong."""
    parsed, faults = {}, []
    for use, parts in splits.items():
        parsed[use] = []
        for part in _list(parts):
            match = PSEUDO_SPLIT.fullmatch(str(part))
            name, low, high = match.groups() if match else (str(part), 0, 100)
            if not 0 <= int(low) < int(high) <= 100:
                faults.append(f"splits: {part}: percents go up, from 0 to 100")
            parsed[use].append((name, int(low), int(high)))
    return parsed, faults


def _list(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _corpus_faults(entry):
    """What is wrong with the corpus of an entry."""
    if entry["corpus"] != "commonvoice":
        return check_corpus(entry["corpus"], entry["folder"], entry["options"])
    if set(entry["options"]) != {"language"}:
        return [f"{NOT_COMMONVOICE}, e.g. options: {{language: en}}"]
    parts = {part for of_use in entry["splits"].values() for part, _, _ in of_use}
    try:
        return commonvoice.missing(
            entry["folder"], entry["options"]["language"], sorted(parts)
        )
    except ValueError as error:
        return [str(error)]


# ----------------------------------------------------------------------- 2. what there is


def read_entries(entries):
    """Reads each corpus once for all the entries that it has.

    Arguments
    ---------
    entries : list of dict
        From ``check_entries``.

    Yields
    ------
    entry : dict
        One of them.
    parts : dict
        {part: Part}, at least of the parts that it names.
    """
    shared = defaultdict(list)
    for entry in entries:
        own = entry["where"] if entry["corpus"] == "commonvoice" else None
        key = [entry["corpus"], str(entry["folder"]), entry["options"], own]
        shared[json.dumps(key, sort_keys=True, default=str)].append(entry)
    for group in shared.values():
        first = group[0]
        parts = sorted(
            {p for e in group for of in e["splits"].values() for p, *_ in of}
        )
        names = ", ".join(entry["name"] for entry in group)
        logger.info("%s: reading %s in %s", names, first["corpus"], first["folder"])
        try:
            if first["corpus"] == "commonvoice":
                read = read_commonvoice(first, parts)
            else:
                fields = sorted({name for entry in group for name in entry["where"]})
                folder = os.path.abspath(first["folder"])
                read = read_corpus(
                    first["corpus"], folder, parts, first["options"], fields
                )
        except ValueError as error:
            raise InputError(f"domains: {names}: {error}") from error
        for entry in group:
            yield entry, read


def read_commonvoice(entry, parts):
    """The clips of a CommonVoice language, as ``read_corpus`` gives those of others."""
    folder, language = os.path.abspath(entry["folder"]), entry["options"]["language"]
    counts = Summary()
    clips = commonvoice.read_release(
        folder, language, parts, counts, "", where=entry["where"]
    )
    wavs = commonvoice.clips_folder(folder, language)
    return {
        part: CorpusPart(
            [
                Segment(
                    Path(clip.name).stem,
                    clip.speaker,
                    clip.sentence,
                    wav=str(wavs / clip.name),
                    seconds=clip.seconds,
                )
                for clip in clips[part]
            ],
            counts.left_out["", part],
        )
        for part in parts
    }


def select(entry, parts, summary):
    """The rows of one entry.

    Arguments
    ---------
    entry : dict
        From ``check_entries``.
    parts : dict
        {part: Part}.
    summary : Summary
        Counts what has a fault, and what ``where`` does not ask for.

    Yields
    ------
    use : str
        A key of ``USES``.
    row : Row
    """
    where = {} if entry["corpus"] == "commonvoice" else entry["where"]
    _check_where(entry, where, parts)
    users = defaultdict(list)  # of what a reader itself left out
    for use, wanted in entry["splits"].items():
        for part, low, high in wanted:
            several = use == "test" and len(wanted) > 1
            domain = f"{entry['name']}/{part}" if several else entry["name"]
            users[part].append((domain, USES[use]))
            for segment in _between(parts[part].segments, low, high, entry[APART]):
                other = [n for n, v in where.items() if segment.fields.get(n) not in v]
                fault = f"other {other[0]}" if other else segment.problem
                if fault:
                    summary.leave_out(domain, USES[use], fault)
                    continue
                folder = os.path.abspath(entry["folder"])
                yield (
                    use,
                    Row(segment, entry["name"], domain, part, entry["corpus"], folder),
                )
    for part in {*users, *parts} & {*users, ""}:
        of_part = users.get(part, [])
        domain, split = of_part[0] if len(of_part) == 1 else (entry["name"], ALL_SPLITS)
        for reason, number in parts[part].left_out.items():
            summary.leave_out(domain, split, reason, number)


def _between(segments, low, high, apart):
    """The segments of some percent of the speakers, or of the segments where speakers are
    not kept apart; one without a name is a speaker by the ID of the segment."""
    if (low, high) == (0, 100):
        return segments
    names = [apart and segment.speaker or segment.id for segment in segments]
    percent = keyed_hash(0, "speaker", names) % 100
    kept = np.flatnonzero((percent >= low) & (percent < high))
    return [segments[index] for index in kept]


def _check_where(entry, where, parts):
    """That every value asked for is there."""
    used = {part for of_use in entry["splits"].values() for part, _, _ in of_use}
    for name, values in where.items():
        there = {s.fields.get(name) for part in used for s in parts[part].segments}
        there.discard(None)
        if absent := sorted(set(map(str, values)) - set(map(str, there))):
            shown = sorted(map(str, there))[:50] or f"no field {name!r}"
            raise InputError(
                f"domains: {entry['name']}: where: no {name} {absent}; there is {shown}"
            )


# ------------------------------------------------------------------- 3. what is taken


def keep_apart(rows, held_out, mixed, summary, split):
    """The rows of speakers who are not in dev or test of the same corpus folder, and of
    all speakers in the entries ``mixed``, where those of dev and test are noted."""
    kept = []
    for folder, of_folder in _grouped(rows, lambda row: row.folder).items():
        speakers = [row.segment.speaker for row in of_folder]
        mask = without_speakers(speakers, held_out[folder])
        for row, keep in zip(of_folder, mask):
            if not keep and row.entry in mixed:
                row.segment = replace(row.segment, note=row.segment.note or HEARD)
            if keep or row.entry in mixed:
                kept.append(row)
            else:
                summary.leave_out(row.domain, split, SPEAKER_HELD_OUT)
    return kept


def check_rest(entries, rows, summary):
    """That speakers are not the reason why an entry has nothing left to train on; of what
    is of no use altogether a warning tells.

    Arguments
    ---------
    entries : list of dict
        From ``check_entries``.
    rows : dict
        {use: list of Row}, once speakers are kept apart.
    summary : Summary
        What was left out.

    Raises
    ------
    InputError
        Naming the entries that have nothing left since speakers are kept apart.
    """
    faults = []
    for use in (use for use in USES if use not in HELD_OUT):
        found = {row.entry for row in rows[use]}
        for entry in entries:
            name = entry["name"]
            if use in entry["splits"] and name not in found:
                reasons = summary.left_out.get((name, USES[use]), Counter())
                reasons = reasons + summary.left_out.get((name, ALL_SPLITS), Counter())
                why = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
                why = why or "no speaker is in its percent"
                line = f"{name}: nothing is left for {use}: {why}"
                if reasons and SPEAKER_HELD_OUT not in reasons:
                    logger.warning(line)
                else:
                    faults.append(f"  {line}")
    if faults:
        logger.info("English domains\n%s", summary.table())
        raise InputError("\n".join(["domains:", *faults, HOW_TO_KEEP]))


def cap(rows, caps, use, seed, summary):
    """The rows of every entry up to its ``max_hours``."""
    kept = []
    for entry, of_entry in _grouped(rows, lambda row: row.entry).items():
        seconds = [row.segment.seconds for row in of_entry]
        ids = [row.id for row in of_entry]
        mask = hours_cap(ids, seconds, caps.get((entry, use)), seed)
        for row, keep in zip(of_entry, mask):
            if keep:
                kept.append(row)
            else:
                summary.leave_out(row.domain, USES[use], "over max_hours")
    return kept


def _grouped(rows, key):
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def count(rows, summary, split):
    """Counts the rows of a manifest."""
    for row in rows:
        summary.add(row.domain, split, row.segment.seconds, bool(row.words))
        if row.segment.note:
            summary.note(row.domain, split, row.segment.note)
        if not row.words:
            summary.untranscribed(row.domain, split, row.fault)


def write(path, rows, data_root):
    """Writes one manifest, if there are rows for it."""
    root = os.path.join(os.path.abspath(data_root), "") if data_root else None
    several = any(row.segment.channel is not None for row in rows)
    columns = (*manifest.COLUMNS, "channel") if several else manifest.COLUMNS

    def fields(row):
        segment, wav = row.segment, row.segment.wav
        if root and wav.startswith(root):
            wav = "{data_root}/" + wav[len(root) :]
        its = {
            "ID": row.id,
            "duration": segment.seconds,
            "wav": wav,
            "start": segment.start,
            "stop": segment.stop,
            "domain": row.domain,
            "spk_id": segment.speaker,
            "wrd": row.words,
        }
        return {**its, "channel": segment.channel} if several else its

    manifest.write_if_any(path, map(fields, rows), columns)


def load_domains(path, data_root):
    """The list ``domains`` of a YAML.

    Arguments
    ---------
    path : str, Path or None
        The file; None for ``domains.yaml`` of this recipe.
    data_root : str
        For its ``data_root``, if it has one and that is not empty.

    Returns
    -------
    list of dict

    Raises
    ------
    InputError
        The file cannot be read, or has no ``domains``.
    """
    path = path or Path(__file__).resolve().parent / "domains.yaml"
    tree = read_tree(path)
    if data_root and "data_root" in tree:
        tree["data_root"] = Text(data_root)
    domains, _ = load_tree(path, tree)
    return domains["domains"]


def prepared(hparams):
    """The domains of a run, and the folder of their manifests.

    Arguments
    ---------
    hparams : dict
        ``domains_file``, ``data_folder``, ``data_seed``, ``output_folder``, and
        ``manifest_folder``: None to prepare them here, on the main process.

    Returns
    -------
    domains : list of dict
    folder : Path
    """
    root, folder = hparams["data_folder"], hparams["manifest_folder"]
    domains = load_domains(hparams["domains_file"], root)
    if folder is None:
        folder = Path(hparams["output_folder"]) / "manifests"
        run_on_main(
            prepare_multi_domain_english,
            args=[domains, folder, root, hparams["data_seed"]],
        )
    return domains, Path(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("domains", help="a YAML file with the list domains")
    parser.add_argument("save_folder")
    parser.add_argument("--data_root", default="")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with reported():
        domains = load_domains(arguments.domains, arguments.data_root)
        prepare_multi_domain_english(
            domains, arguments.save_folder, arguments.data_root, arguments.seed
        )


if __name__ == "__main__":
    main()
