"""Checks the list ``domains`` of a YAML, and reports all its errors at once.

An entry of the list is a domain:

.. code-block:: yaml

    domains:
      - name: hindi
        corpus: l2_arctic            # lhotse's prepare_<corpus>, or commonvoice
        folder: /data/l2arctic_release_v5.0
        splits: {test: [read]}       # use: lhotse's names of the parts
        max_hours: {test: 10}        # optional, as is all that follows
        options: {}                  # further arguments of lhotse's function
        where: {accent: [Hindi]}     # values of fields of lhotse's supervisions, or of
                                     # CommonVoice's columns
        keep_speakers_apart: True    # speakers of dev and test are not trained on

A part may be followed by a range, such as ``all[0:90]``: the percent of its speakers, or
of its utterances if speakers are not kept apart.
"""

import re
from collections import Counter
from collections.abc import Mapping

from ...errors import InputError
from . import commonvoice
from .lhotse_corpora import check_corpus

# What the utterances of a part are used for, and the manifest to which they go.
USES = {"pretrain": "pretrain", "finetune": "train", "dev": "dev", "test": "test"}
HELD_OUT = ("dev", "test")
REQUIRED = ("name", "corpus", "folder", "splits")
OPTIONAL = ("max_hours", "options", "where")  # mappings
APART = "keep_speakers_apart"
KEYS = (*REQUIRED, *OPTIONAL, APART)
NOT_COMMONVOICE = "corpus: commonvoice takes one option, language"
PART_WITH_RANGE = re.compile(r"(.+)\[(\d+):(\d+)\]")


def check_entries(domains):
    """Checks the entries, and fills in defaults.

    Arguments
    ---------
    domains : list of dict
        The list as the YAML has it.

    Returns
    -------
    list of dict
        Each with all of ``KEYS``; ``splits`` as {use: [(part, first percent, last
        percent)]}.

    Raises
    ------
    InputError
        Lists every error of every entry, by the name of its domain.
    """
    errors, entries, names = [], [], Counter()
    if not isinstance(domains, list) or not domains:
        raise InputError("domains: a list of entries is needed")
    for number, entry in enumerate(domains, 1):
        name = entry.get("name") if isinstance(entry, Mapping) else None
        name = name or f"entry {number}"
        found = _check_form(entry)
        if not found:
            entry, found = _with_defaults(entry)
            found += _check_corpus(entry)
            entries.append(entry)
        names[name] += 1
        if names[name] == 2:
            found.append("this name is taken; every domain needs its own")
        errors += [f"  {name}: {error}" for error in found]
    if errors:
        raise InputError("\n".join([f"domains: {len(errors)} error(s)", *errors]))
    return entries


def _check_form(entry):
    """Errors in the keys of an entry, and in the types of their values."""
    if not isinstance(entry, Mapping):
        return [f"not a mapping but {entry!r}"]
    errors = [f"no {key}" for key in REQUIRED if not entry.get(key)]
    if unknown := sorted(set(entry) - set(KEYS)):
        errors.append(f"unknown keys {unknown}; known: {[*KEYS]}")
    if not isinstance(entry.get(APART, True), bool):
        errors.append(f"{APART}: {entry[APART]!r} is not True or False")
    for key in ("splits", *OPTIONAL):
        if entry.get(key) and not isinstance(entry[key], Mapping):
            errors.append(f"{key}: not a mapping but {entry[key]!r}")
    if not errors:
        splits, caps = entry["splits"], entry.get("max_hours") or {}
        if unknown := sorted(set(splits) - set(USES)):
            errors.append(f"splits: {unknown} unknown; known: {list(USES)}")
        for use, hours in caps.items():
            if use not in splits:
                errors.append(f"max_hours: {use} is not in splits")
            if not isinstance(hours, (int, float)) or not hours > 0:
                errors.append(
                    f"max_hours: {use}: {hours!r} is not a positive number of hours"
                )
    return errors


def _with_defaults(entry):
    """The entry with all of ``KEYS``, and errors in its splits."""
    entry = {key: None for key in OPTIONAL} | {APART: True} | dict(entry)
    entry |= {key: dict(entry[key] or {}) for key in OPTIONAL}
    entry["where"] = {field: _as_list(v) for field, v in entry["where"].items()}
    splits, errors = {}, []
    for use, parts in entry["splits"].items():
        splits[use] = []
        for part in _as_list(parts):
            match = PART_WITH_RANGE.fullmatch(str(part))
            name, first, last = match.groups() if match else (str(part), 0, 100)
            if not 0 <= int(first) < int(last) <= 100:
                errors.append(f"splits: {part}: percents go up, from 0 to 100")
            splits[use].append((name, int(first), int(last)))
    return entry | {"splits": splits}, errors


def _as_list(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def parts_of(entry):
    """The names of the parts that a checked entry uses, each once, sorted."""
    return sorted({part for parts in entry["splits"].values() for part, *_ in parts})


def _check_corpus(entry):
    """Errors in the corpus of an entry: its name, its options, missing files."""
    if entry["corpus"] != "commonvoice":
        return check_corpus(entry["corpus"], entry["folder"], entry["options"])
    if set(entry["options"]) != {"language"}:
        return [f"{NOT_COMMONVOICE}, e.g. options: {{language: en}}"]
    try:
        return commonvoice.missing(
            entry["folder"], entry["options"]["language"], parts_of(entry)
        )
    except ValueError as error:
        return [str(error)]
