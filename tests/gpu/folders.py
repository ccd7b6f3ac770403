"""Model folders on a device: what they give there, and what they give on the CPU."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import torch
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR

from hetero_brain.__main__ import main
from hetero_brain.data.datasets import Utterances
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.pipelines.recipe import read_recipe
from hetero_brain.recognition.recogniser import load_recogniser
from tests.benchmarks.speech import RATE, RECIPE

from .finetuned import COUNT, labelled
from .mini import largest, relative_error
from .verdicts import Finding, at_most, equal

INTERFACES = {"ctc": EncoderASR, "attention": EncoderDecoderASR}
WORDS = "--size mini --dropout 0 --epochs 20 --hold_epochs 20 --valid_interval 20"
WORDS += " --lr 0.004 --warmup_iterations 0 --noprogressbar"


def used(device, kind):
    """Findings about a recipe's recogniser, trained on a device and used there.

    Arguments
    ---------
    device : str
        Whose results are compared with those of the CPU.
    kind : str
        ``ctc`` or ``attention``, a YAML of a recipe.
    """
    rows = labelled()
    with tempfile.TemporaryDirectory() as folder:
        run, model = Path(folder, "run"), Path(folder, "run/model")
        train(kind, device, run, rows)
        here, there = (load_recogniser(model, place) for place in (device, "cpu"))
        wavs, wav_lens = batch = Utterances(rows, RATE).batch(range(COUNT), 0)[0].sig
        on_device = wavs.to(device), wav_lens.to(device)
        (found, lengths), (expected, frames) = (
            here.log_probs(*on_device),
            there.log_probs(*batch),
        )
        yield equal("frames", frames.tolist(), lengths.tolist())
        inside = length_to_mask(frames, dtype=torch.bool)
        error = relative_error(found.cpu()[inside], expected[inside])
        yield at_most("log-probabilities, relative error", error, 1e-3)
        words = there.transcribe(*batch)
        yield Finding("words", "some", words[0], all(words))
        interface = INTERFACES[kind].from_hparams(
            str(model), savedir=f"{folder}/copy", run_opts={"device": device}
        )
        paths = [row["wav"] for row in rows]
        for name, texts in (
            ("evaluation", evaluated(run, rows)),
            ("load_recogniser", here.transcribe(*on_device)),
            (type(interface).__name__, interface.transcribe_batch(*batch)[0]),
            ("transcribe", transcribed(model, paths, device)),
        ):
            yield equal(name, words, [" ".join(text.split()) for text in texts])
        error = largest(differences(model, paths, device, Path(folder)))
        yield at_most("features, relative error", error, 1e-3)


def train(kind, device, run, rows):
    """Fine-tune from random weights, as the recipe does."""
    words = [str(RECIPE / f"finetune/hparams/{kind}.yaml"), *WORDS.split()]
    words += ["--data_folder", "unused", "--output_folder", str(run)]
    hparams, run_opts, _ = read_recipe([*words, "--device", device])
    finetune(hparams, run_opts, {"train": rows, "dev": rows})


def evaluated(run, rows):
    """What the evaluation of a run recognised in each row."""
    found = json.loads((run / "dev.json").read_text("utf-8"))
    texts = {utterance["id"]: utterance["hypothesis"] for utterance in found}
    return [texts[row["ID"]] for row in rows]


def transcribed(model, paths, device):
    """What the command recognises in files."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(["transcribe", str(model), *paths, "--device", device])
    return [json.loads(line)["text"] for line in output.getvalue().splitlines()]


def differences(model, paths, device, folder):
    """Relative errors of the files that the command for features writes on a device."""
    found = []
    for place in (device, "cpu"):
        output = folder / f"{len(found)}.pt"
        words = ["--output", str(output), "--layers", "all", "--device", place]
        main(["features", str(model), *paths, *words])
        found.append(torch.load(output))
    assert len(found[1]) == COUNT
    return [relative_error(x, found[1][name]) for name, x in found[0].items()]
