"""What the headers of some files say about all: sample rates, and wrong durations."""

from collections import defaultdict

import numpy as np
import soundfile

from ..data.corpora.headers import read_header
from ..errors import InputError
from ..training.rng import generator
from .tables import plain

FILES = 50  # of each domain whose headers are read
READ = 0.9  # of a row must be in its file, or the row is left out
OTHER_UNIT = 10  # times as long as their files: durations in another unit
WRONG = (
    "durations may be of another version of the files, or computed with another sample "
    "rate; or the files are cut short"
)


def sampled_headers(manifest):
    """The headers of some files of each domain.

    Files whose headers libsndfile cannot read are left out.

    Arguments
    ---------
    manifest : Manifest
        The rows.

    Returns
    -------
    dict
        Domain → its (row, what :func:`soundfile.info` returns).
    """
    headers = {}
    for i, domain in enumerate(manifest.domains):
        rows = np.flatnonzero(manifest.domain == i)
        headers[domain] = []
        for drawn in generator(0, "look ahead", domain).permutation(rows)[:FILES]:
            row = manifest[int(drawn)]
            try:
                headers[domain].append((row, soundfile.info(row["wav"])))
            except (OSError, soundfile.LibsndfileError):
                continue
    return headers


def refuse_impossible(headers, manifest):
    """Raise an InputError if most of a domain's files are far shorter than their rows
    state, so that they would be left out; see :func:`sampled_headers`."""
    for domain, found in headers.items():
        whole = [(row, info.duration) for row, info in found if row["start"] is None]
        ratio, row, seconds = most_common_ratio(whole)
        if ratio * READ > 1:  # libsndfile guesses the length of some mp3s
            held = [(row, read_header(row["wav"])) for row, _ in whole]
            ratio, row, seconds = most_common_ratio(
                [(row, header.frames / header.rate) for row, header in held]
            )
        if ratio * READ > 1:
            unit = "duration is in seconds, not in milliseconds or samples"
            raise InputError(
                f"{manifest.path}: the durations of {domain} are about {ratio:.4g} times "
                f"the length of its files, as in row {row['ID']}, {row['duration']:g} s, "
                f"whose file has {seconds:.4g} s, so that most would be left out: "
                + (unit if ratio > OTHER_UNIT else WRONG)
            )


def most_common_ratio(rows):
    """The median, over (row, seconds of its file), of the stated length relative to that
    of the file, with the row and the seconds; 0 if there is none."""
    ratios = [
        (row["duration"] / seconds, row["ID"], row, seconds)
        for row, seconds in rows
        if seconds > 0
    ]
    if not ratios:
        return 0, None, 0
    ratio, _, row, seconds = sorted(ratios, key=lambda x: x[:2])[len(ratios) // 2]
    return ratio, row, seconds


def sampled_rates(headers, manifest):
    """The sample rates of a manifest's audio, by the headers of some files a domain.

    Arguments
    ---------
    headers : dict
        From :func:`sampled_headers`.
    manifest : Manifest
        The rows.

    Returns
    -------
    dict
        Domain → sample rate in Hz → hours, scaled up to all of the domain's.
    """
    rates = {}
    for i, domain in enumerate(manifest.domains):
        seconds = defaultdict(float)
        for row, info in headers[domain]:
            seconds[info.samplerate] += row["duration"]
        hours = manifest.duration[manifest.domain == i].sum(dtype=np.float64) / 3600
        known = sum(seconds.values())
        rates[domain] = {rate: hours * s / known for rate, s in seconds.items()}
    return rates


def resampling(rates, sample_rate):
    """Sentences on the hours whose sample rate is not the model's.

    Arguments
    ---------
    rates : dict
        From :func:`sampled_rates`.
    sample_rate : int
        That of the model, in Hz.

    Yields
    ------
    str
    """
    hours = [(d, rate, h) for d, own in rates.items() for rate, h in own.items()]
    model = f"the model's sample_rate of {sample_rate / 1000:g} kHz"
    lost = f"what they hold above {sample_rate / 2000:g} kHz is thrown away"
    empty = "the upper part of its spectrum is empty for them"
    for side, found, consequence in (
        ("above", [each for each in hours if each[1] > sample_rate], lost),
        ("below", [each for each in hours if each[1] < sample_rate], empty),
    ):
        if found:
            about = f"About {plain(sum(h for _, _, h in found))} h are sampled {side}"
            where = ", ".join(f"{d} {rate / 1000:g} kHz" for d, rate, _ in found)
            yield f"{about} {model} ({where}): {consequence}"
