"""What training leaves behind builds the same model again, anywhere, in exact numbers."""

import json
import os
import re
import shutil
import stat
from functools import partial
from pathlib import Path

import pytest
import speechbrain as sb
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.ASR import EncoderASR, EncoderDecoderASR
from speechbrain.inference.encoders import WaveformEncoder
from speechbrain.nnet.losses import ctc_loss

from hetero_brain import load_encoder
from hetero_brain.errors import InputError
from hetero_brain.models.model_folder import find_model
from hetero_brain.models.run_folder import choose_checkpoint
from hetero_brain.pipelines.export import export
from hetero_brain.pipelines.pretrained import load_pretrained
from hetero_brain.pipelines.run_record import hours
from hetero_brain.recognition.interfaces import frames_of
from hetero_brain.recognition.recogniser import load_recogniser
from tests.fake_cuda import CUDA, fake_cuda, moved
from tests.unit.trained import (
    BESTRQ,
    CPC,
    finetuned,
    hparams_of,
    pretrained,
)

YAMLS = "VoicePrompts/finetune/hparams"
INTERFACES = {"ctc": EncoderASR, "attention": EncoderDecoderASR}
DECODED = ("recogniser", "speechbrain")


@pytest.fixture(scope="module")
def ten(sample):
    """The ten shortest transcribed Spanish prompts of the sample."""
    train = sample("train", ["es"])
    order = sorted(range(len(train)), key=lambda i: train.duration[i])
    return train.subset([i for i in order if " " in train[i]["wrd"]][:10])


@pytest.fixture(scope="module")
def bestrq(ten, tmp_path_factory):
    words = "--codebook_size 16"
    return pretrained(BESTRQ, words, tmp_path_factory.mktemp("bestrq"), ten)


@pytest.fixture(scope="module")
def cpc(ten, tmp_path_factory):
    words = "--sample_rate 8000 --n_positives 2"
    return pretrained(CPC, words, tmp_path_factory.mktemp("cpc"), ten)


@pytest.fixture(scope="module")
def runs(bestrq, cpc, ten, tmp_path_factory):
    """runs(kind) → the folder of a fine-tuning run, and its final evaluation."""
    kinds = {
        "ctc": ("ctc.yaml", bestrq[0], "--unit unigram --vocab_size 30"),
        "ctc, beam": ("ctc.yaml", cpc[0], "--beam_size 4"),
        "probe": ("probe.yaml", bestrq[0] / "model", ""),
        "attention": ("attention.yaml", cpc[0], "--beam_size 2 --max_decode_ratio 0.2"),
    }
    done = {}

    def run(kind):
        if kind not in done:
            yaml, phase, words = kinds[kind]
            heard, folder = [], tmp_path_factory.mktemp(kind.replace(", ", "_"))
            words = f"{words} --pretrained {phase}"
            done[kind] = finetuned(f"{YAMLS}/{yaml}", words, folder, ten, heard), heard
        return done[kind]

    return run


def wavs(*seconds, rate=8000):
    """Noise of some lengths, padded, and its relative lengths."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.zeros(len(seconds), int(max(seconds) * rate))
    for row, length in zip(batch, seconds):
        row[: int(length * rate)].normal_(generator=generator)
    return batch, torch.tensor(seconds) / max(seconds)


def hypotheses(run):
    """ID → what the evaluation of a run has recognised."""
    found = json.loads((run / "dev.json").read_text("utf-8"))
    return {utterance["id"]: utterance["hypothesis"] for utterance in found}


def normal(texts):
    return [" ".join(text.split()) for text in texts]


# -------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("kind", ["bestrq", "cpc"])
@pytest.mark.parametrize("part", ["", "model"])
def test_the_encoder_of_a_phase_comes_back(kind, part, request):
    folder, modules = request.getfixturevalue(kind)
    encoder = load_encoder(folder / part).eval()
    sound = wavs(1.0, 0.37, 0.8)
    x, lengths = modules["features"](*sound)
    modules["encoder"].eval()
    expected, layers = modules["encoder"](x, lengths)
    encoded, frames, hidden = encoder(*sound)
    assert torch.equal(frames, lengths)
    for row, n in enumerate(lengths):
        for ours, theirs in zip([encoded, *hidden], [expected, *layers], strict=True):
            assert torch.equal(ours[row, :n], theirs[row, :n])
    assert encoded.shape[2] == encoder.output_size == 32
    assert encoder.sample_rate == 8000


@pytest.mark.parametrize("kind", ["bestrq", "cpc"])
def test_speechbrains_waveform_encoder_gives_the_same(kind, request):
    folder, _ = request.getfixturevalue(kind)
    theirs = WaveformEncoder.from_hparams(source=str(folder / "model"))
    sound = wavs(0.6, 0.5)
    encoded, lengths, _ = load_encoder(folder).eval()(*sound)
    found = theirs.encode_batch(*sound)
    assert torch.equal(found["embeddings"], encoded)
    assert torch.equal(found["embedding_lens"] * encoded.shape[1], lengths)


def test_other_rates_are_resampled(bestrq):
    import torchaudio

    encoder = load_encoder(bestrq[0], sample_rate=11025).eval()
    assert encoder.sample_rate == 11025
    sound, relative = wavs(0.5, 0.3, rate=11025)
    sound[1, int(0.3 * 11025) :] = 9.0  # no zeros behind the end
    encoded, lengths, _ = encoder(sound, relative)
    for row, seconds in enumerate((0.5, 0.3)):
        alone = torchaudio.functional.resample(
            sound[row : row + 1, : int(seconds * 11025)], 11025, 8000
        )
        expected, frames, _ = load_encoder(bestrq[0]).eval()(alone)
        assert lengths[row] == frames[0]
        torch.testing.assert_close(
            encoded[row, : frames[0]], expected[0], rtol=1e-3, atol=1e-4
        )


def test_a_frozen_encoder_stays_as_it_is(bestrq):
    encoder = load_encoder(bestrq[0], freeze=True)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(*wavs(0.5))[0].requires_grad
    trained = load_encoder(bestrq[0])
    assert trained.training and trained(*wavs(0.5))[0].requires_grad


class Recipe(sb.Brain):
    """As in SpeechBrain's CTC recipes, on an encoder of waveforms."""

    def compute_forward(self, batch, stage):
        encoded, lengths, _ = self.modules.encoder(*batch)
        logits = self.modules.output(encoded)
        return self.hparams.log_softmax(logits), lengths / encoded.shape[1]

    def compute_objectives(self, predictions, batch, stage):
        tokens = torch.tensor([[1, 2, 3], [3, 2, 1]])
        return ctc_loss(*predictions[:1], tokens, predictions[1], torch.ones(2), 0)


README = Path(__file__).parents[2] / "README.md"
YAML = """
output: !new:speechbrain.nnet.linear.Linear {input_size: 32, n_neurons: 4}
modules: {encoder: !ref <encoder>, output: !ref <output>}
log_softmax: !new:torch.nn.LogSoftmax {dim: -1}
"""


@pytest.mark.parametrize("freeze", [False, True])
def test_a_recipe_of_speechbrain_trains_on_it(freeze, bestrq, tmp_path, monkeypatch):
    """With the lines of README.md as they stand there."""
    torch.manual_seed(0)
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert block.count("\n") == 3
    folder = tmp_path / re.search("folder: (.+)", block)[1]
    folder.parent.mkdir(parents=True)
    folder.symlink_to(bestrq[0])
    monkeypatch.chdir(tmp_path)
    text = block + YAML if freeze else block.replace("True", "False") + YAML
    hparams = load_hyperpyyaml(text)
    adam = partial(torch.optim.Adam, lr=0.01)
    brain = Recipe(hparams["modules"], adam, hparams, {"device": "cpu"})
    brain.on_fit_start()
    before = [p.clone() for p in hparams["encoder"].parameters()]
    brain.modules.train()
    losses = [float(brain.fit_batch(wavs(1.0, 0.7))) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    after = [*hparams["encoder"].parameters()]
    same = [torch.equal(p, q) for p, q in zip(before, after, strict=True)]
    assert all(same) if freeze else not any(same[:4])


# ----------------------------------------------------------------------- recognisers


@pytest.mark.parametrize("kind", ["ctc", "ctc, beam", "probe", "attention"])
@pytest.mark.parametrize("part", ["", "model"])
def test_a_recogniser_gives_what_its_evaluation_gave(kind, part, runs):
    run, heard = runs(kind)
    recogniser = load_recogniser(run / part)
    assert recogniser.kind == kind.split(",")[0].replace("probe", "ctc")
    assert heard
    for sig, relative, predictions, ids in heard:
        log_probs, lengths = recogniser.log_probs(sig, relative)
        assert torch.equal(log_probs, predictions[0])
        assert torch.equal(lengths, predictions[1])
        texts = normal(recogniser.transcribe(sig, relative))
        assert texts == [hypotheses(run)[key] for key in ids]


@pytest.mark.parametrize("kind", ["ctc", "ctc, beam", "probe"])
def test_encoder_asr_gives_what_the_evaluation_gave(kind, runs):
    run, heard = runs(kind)
    theirs = EncoderASR.from_hparams(source=str(run / "model"))
    for sig, relative, (expected, lengths), ids in heard:
        log_probs = theirs.encode_batch(sig, relative)
        for row, n in enumerate(lengths):
            assert torch.equal(log_probs[row, :n], expected[row, :n])
        texts, _ = theirs.transcribe_batch(sig, relative)
        assert normal(texts) == [hypotheses(run)[key] for key in ids]


def test_encoder_decoder_asr_gives_what_the_evaluation_gave(runs):
    run, heard = runs("attention")
    theirs = EncoderDecoderASR.from_hparams(source=str(run / "model"))
    for sig, relative, (_, lengths, expected, _), ids in heard:
        encoded = theirs.encode_batch(sig, relative)
        for row, n in enumerate(lengths):
            assert torch.equal(encoded[row, :n], expected[row, :n])
            assert not encoded[row, n:].any()
        texts, units = theirs.transcribe_batch(sig, relative)
        assert normal(texts) == [hypotheses(run)[key] for key in ids]
        assert len(units) == len(ids)


def test_the_decoder_takes_as_many_frames_as_there_are(runs):
    """Relative lengths in samples are off by one frame for the second utterance."""
    recogniser = load_recogniser(runs("attention")[0])
    sound, relative = wavs(1.0, 0.26)
    theirs = EncoderDecoderASR.from_hparams(source=str(runs("attention")[0] / "model"))
    encoded = theirs.encode_batch(sound, relative)
    _, lengths = recogniser.encode(sound, relative)
    assert lengths.tolist() == [16, 5] and round(0.26 * 16) == 4
    assert (frames_of(encoded, relative) * encoded.shape[1]).tolist() == [16, 5]
    frames = []
    search = theirs.mods.decoder.search
    search.register_forward_pre_hook(lambda _, args: frames.append(args[1]))
    theirs.transcribe_batch(sound, relative)
    assert (frames[0] * 16).tolist() == [16, 5]


@pytest.mark.parametrize("kind", ["ctc", "attention"])
def test_a_file_is_transcribed(kind, runs, ten):
    run, _ = runs(kind)
    theirs = INTERFACES[kind].from_hparams(source=str(run / "model"))
    text = theirs.transcribe_file(ten[0]["wav"])
    alone = theirs.load_audio(ten[0]["wav"]).unsqueeze(0)
    assert text == load_recogniser(run).transcribe(alone)[0]


@pytest.mark.parametrize("kind", ["ctc", "attention", "bestrq", "cpc"])
def test_on_a_gpu_everything_is_computed_there(kind, runs, request):
    """Under fake tensors, which raise if an operator gets tensors of two devices."""
    run = runs(kind)[0] if kind in INTERFACES else request.getfixturevalue(kind)[0]
    interface = INTERFACES.get(kind, WaveformEncoder)
    theirs = interface.from_hparams(source=str(run / "model"))
    ours = load_recogniser(run) if kind in INTERFACES else load_encoder(run)
    sound, relative = wavs(1.0, 0.26)
    with fake_cuda(lambda lengths: [16, 5]):
        theirs.device = CUDA
        moved(theirs.mods)
        found = theirs.encode_batch(sound, relative)
        encode = moved(ours).encode if kind in INTERFACES else moved(ours)
        encoded, lengths, *_ = encode(sound.to(CUDA), relative.to(CUDA))
    encodings = found["embeddings"] if isinstance(found, dict) else found
    assert encodings.device == encoded.device == lengths.device == CUDA
    assert encodings.shape[1] == encoded.shape[1] > 10


def test_an_encoder_is_no_recogniser(bestrq):
    with pytest.raises(InputError, match="an encoder, not a recogniser"):
        load_recogniser(bestrq[0])


def test_the_encoder_of_a_recogniser_can_be_loaded(runs):
    run, heard = runs("ctc")
    encoder = load_encoder(run).eval()
    recogniser = load_recogniser(run)
    sig, relative = heard[0][:2]
    encoded, lengths, layers = encoder(sig, relative)
    expected, _ = recogniser.encode(sig, relative)
    readout = recogniser.posteriors.readout
    assert torch.equal(readout(encoded, layers), expected)


# --------------------------------------------------------------------------- folders


def test_a_folder_works_moved_read_only_and_from_elsewhere(runs, tmp_path, monkeypatch):
    run, heard = runs("ctc")
    moved = tmp_path / "a folder é" / "moved"
    shutil.copytree(run / "model", moved)
    text = (moved / "hyperparams.yaml").read_text("utf-8")
    assert str(run.parent) not in text and "/" not in text.split("pretrainer")[1]
    for path in (*moved.iterdir(), moved):
        path.chmod(path.stat().st_mode & ~stat.S_IWUSR)
    monkeypatch.chdir(moved.parent)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    sig, relative, (expected, _), _ = heard[0]
    try:
        theirs = EncoderASR.from_hparams(source="moved")
        assert torch.equal(
            load_recogniser("moved").log_probs(sig, relative)[0], expected
        )
        texts = theirs.transcribe_batch(sig, relative)[0]
        assert texts == load_recogniser(run).transcribe(sig, relative)
    finally:
        moved.chmod(0o755)


def test_a_folder_names_only_what_its_user_has(runs, bestrq):
    for folder in (bestrq[0], *(runs(kind)[0] for kind in ("ctc", "attention"))):
        text = (folder / "model/hyperparams.yaml").read_text("utf-8")
        named = set(re.findall(r"!(?:new|apply|name):([\w.]+)", text))
        packages = {name.split(".")[0] for name in named}
        assert packages <= {"hetero_brain", "speechbrain", "sentencepiece", "torch"}


def test_speechbrain_loads_it_from_the_hub(runs, tmp_path, monkeypatch):
    """The hub is a stand-in, which serves the files of the folder."""
    run, heard = runs("ctc")

    def download(repo_id, filename, **_):
        assert repo_id == "user/name"
        return run / "model" / filename

    hub = "speechbrain.utils.fetching.huggingface_hub.hf_hub_download"
    monkeypatch.setattr(hub, download)
    theirs = EncoderASR.from_hparams(source="user/name", savedir=tmp_path / "cache")
    sig, relative, _, ids = heard[0]
    texts, _ = theirs.transcribe_batch(sig, relative)
    assert normal(texts) == [hypotheses(run)[key] for key in ids]


def copy_of(runs, tmp_path):
    return shutil.copytree(runs("ctc")[0] / "model", tmp_path / "copy")


@pytest.mark.parametrize("name", ["encoder.ckpt", "ctc.ckpt", "tokenizer.ckpt"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_missing_file_is_named(name, listed, runs, tmp_path):
    folder = copy_of(runs, tmp_path)
    (folder / name).unlink()
    if not listed:
        (folder / "files.json").unlink()
    with pytest.raises(InputError, match=f"incomplete.*{name} is missing"):
        load_recogniser(folder)


@pytest.mark.parametrize("damage", ["cut", "bit"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_file_is_named(damage, listed, runs, tmp_path):
    folder = copy_of(runs, tmp_path)
    path = folder / "encoder.ckpt"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if listed:
        with pytest.raises(InputError, match="damaged: encoder.ckpt"):
            load_recogniser(folder)
    elif damage == "cut":
        (folder / "files.json").unlink()
        with pytest.raises(InputError, match="encoder.ckpt: damaged"):
            load_recogniser(folder)


def test_weights_of_another_model_are_named(runs, tmp_path):
    folder = copy_of(runs, tmp_path)
    text = (folder / "hyperparams.yaml").read_text("utf-8")
    (folder / "hyperparams.yaml").write_text(text.replace("size: mini", "size: tiny"))
    with pytest.raises(InputError) as error:
        load_encoder(folder)
    assert "does not fit encoder" in str(error.value)
    assert str(error.value).count("\n") <= 11 and "more" in str(error.value)


@pytest.mark.parametrize(
    "kind, key, wrong, named",
    [
        ("attention", "search_ctc_weight", None, "has no search_ctc_weight"),
        ("attention", "max_decode_ratio", None, "has no max_decode_ratio"),
        ("attention", "search_ctc_weight", -3, "search_ctc_weight: -3 is not a number"),
        ("ctc", "beam_size", "few", "beam_size: 'few' is not an integer"),
        ("ctc", "    n_outputs", -3, "ctc: n_outputs: -3 is not an integer"),
        ("attention", "    d_ffn", -3, "decoder: d_ffn: -3 is not an integer"),
        ("ctc", "    stack", "x", "features: stack: 'x' is not an integer ≥ 1"),
        ("ctc", "    n_mels", 8.5, "features: n_mels: 8.5 is not an integer"),
        ("ctc", "sample_rate", "x", "sample_rate: 'x' is not an integer ≥ 1"),
        ("ctc", "    size", "x", "encoder: .*choose one of mini"),
        ("ctc", "    recomputed", 3, "encoder: .*choose one of none"),
    ],
)
def test_a_search_or_size_that_cannot_be_is_named(
    kind, key, wrong, named, runs, tmp_path
):
    folder = shutil.copytree(runs(kind)[0] / "model", tmp_path / "copy")
    path = folder / "hyperparams.yaml"
    line = "" if wrong is None else f"{key}: {wrong}"
    text, count = re.subn(f"(?m)^{key}: .*$", line, path.read_text("utf-8"))
    assert count
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=named):
        load_recogniser(folder)


@pytest.mark.parametrize(
    "before, after, named",
    [
        ('"epochs": 1', '"epochs": "x"', "damaged .epochs: 'x'"),
        ("stack: 4", "stack: x", "features: stack: 'x' is not an integer"),
        ('"seed"', '"sead"', "facts: no model card: KeyError.'seed'"),
        ('"hours": {', '"hours": 3, "x": {', "facts: no model card: AttributeError"),
    ],
)
def test_a_run_whose_record_was_edited_is_named(before, after, named, bestrq, tmp_path):
    run = shutil.copytree(bestrq[0], tmp_path / "run")
    text = (run / "model.json").read_text("utf-8")
    assert before in text
    (run / "model.json").write_text(text.replace(before, after), "utf-8")
    with pytest.raises(InputError, match=f"{run}/model.json.*\n*.*{named}"):
        export(run, tmp_path / "model")


def test_a_checkpoint_without_its_epoch_is_named(bestrq, tmp_path):
    copy = shutil.copytree(bestrq[0], tmp_path / "CSSL.1")
    for checkpoint in (copy / "save").glob("CKPT+*"):
        for name in ("counter.ckpt", "files.json", "run.json"):
            (checkpoint / name).unlink()
    with pytest.raises(InputError, match="CKPT.*damaged: counter.ckpt"):
        load_encoder(copy)


def test_what_is_no_model_is_named(bestrq, tmp_path):
    run = bestrq[0].parent
    with pytest.raises(InputError, match="no such folder"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no model: no hyperparams.yaml"):
        load_encoder(tmp_path)
    with pytest.raises(InputError, match="its checkpoints are of a version"):
        old = tmp_path / "old"
        shutil.copytree(bestrq[0] / "save", old / "save")
        load_encoder(old)
    (run / "hyperparams.yaml").touch()
    with pytest.raises(InputError, match="give one of its phases: CSSL.1"):
        load_encoder(run)


def test_a_checkpoint_itself_can_be_named(bestrq):
    folder, _ = bestrq
    checkpoint = choose_checkpoint(folder)
    assert checkpoint.parent.name == "save"
    assert find_model(checkpoint).weights == checkpoint
    assert find_model(checkpoint.parent).weights == checkpoint
    states = [load_encoder(f).state_dict() for f in (folder, checkpoint)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_model_outlives_its_checkpoints(bestrq, tmp_path):
    copy = shutil.copytree(bestrq[0], tmp_path / "CSSL.1")
    shutil.rmtree(copy / "save")
    states = [load_encoder(folder).state_dict() for folder in (bestrq[0], copy)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


# ---------------------------------------------------------------------------- export


def test_export_of_the_last_the_best_and_the_mean(runs, tmp_path):
    run, saved = shutil.copytree(runs("ctc")[0], tmp_path / "run"), {}
    for cer, path in enumerate(sorted((run / "save").glob("CKPT+*"))):
        for name in ("files.json", "run.json"):  # as SpeechBrain's own checkpointer
            (path / name).unlink()
        meta = yaml.safe_load((path / "CKPT.yaml").read_text())
        meta["CER"] = float(cer)  # so that the first is the best
        (path / "CKPT.yaml").write_text(yaml.safe_dump(meta))
        state = torch.load(path / "ctc.ckpt", weights_only=True)
        saved[meta["unixtime"]] = state["weight"], meta["CER"]
    assert len(saved) == 2
    weights = {}
    for choice in ("last", "best", "average", None):
        folder = export(run, tmp_path / str(choice), choice)
        assert load_recogniser(folder).kind == "ctc"
        state = torch.load(folder / "ctc.ckpt", weights_only=True)
        weights[choice] = state["weight"]
    last, best = max(saved), min(saved)
    assert torch.equal(weights["last"], saved[last][0])
    assert torch.equal(weights["best"], saved[best][0])
    assert torch.equal(weights[None], weights["best"])
    mean = sum(weight for weight, _ in saved.values()) / 2
    torch.testing.assert_close(weights["average"], mean)
    one = export(run, tmp_path / "one", "average", n=1)
    state = torch.load(one / "ctc.ckpt", weights_only=True)
    assert torch.equal(state["weight"], weights["best"])
    card = (tmp_path / "average/README.md").read_text("utf-8")
    assert "the mean of CKPT+" in card and "were not evaluated" in card


def test_export_from_the_command_line(bestrq, tmp_path, capsys):
    from hetero_brain.__main__ import main

    folder = tmp_path / "mine"
    words = [str(bestrq[0]), str(folder), "--checkpoint", "average", "-n", "1"]
    assert main(["export", *words]) in (None, 0)
    assert capsys.readouterr().out == f"{folder}\n"
    assert load_encoder(folder).output_size == load_encoder(bestrq[0]).output_size


def test_a_run_may_delete_a_checkpoint_while_it_is_exported(
    runs, tmp_path, monkeypatch
):
    run, gone = shutil.copytree(runs("ctc")[0], tmp_path / "run"), []

    def chosen(*args):
        path = choose_checkpoint(*args)
        if not gone:
            shutil.rmtree(path)
            gone.append(path.name)
        return path

    monkeypatch.setattr("hetero_brain.pipelines.export.choose_checkpoint", chosen)
    folder = export(run, tmp_path / "model", "last")
    assert load_recogniser(folder).kind == "ctc"
    assert gone[0] not in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("load", [load_encoder, load_recogniser, "fine-tuning"])
def test_a_run_may_delete_a_checkpoint_while_it_is_loaded(
    load, runs, tmp_path, monkeypatch
):
    """After it has been chosen, and before it is read."""
    run, gone = shutil.copytree(runs("ctc")[0], tmp_path / "run"), []
    shutil.rmtree(run / "model")
    assert len([*run.glob("save/CKPT*")]) > 1

    def warn(run):
        if not gone:
            gone.append(choose_checkpoint(run, "CER"))
            shutil.rmtree(gone[0])

    monkeypatch.setattr("hetero_brain.models.model_folder.warn_of_unfinished", warn)
    if load == "fine-tuning":
        encoder = load_encoder(runs("ctc")[0]).encoder
        load_pretrained({"encoder": encoder}, run)
    else:
        assert load(run)
    assert gone and not gone[0].exists()


def test_export_that_cannot_be_is_refused(runs, bestrq, tmp_path):
    run, _ = runs("ctc")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(InputError, match="mine exists and is not a model folder"):
        export(run, tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(InputError, match="a phase has no best"):
        export(bestrq[0], tmp_path / "x", "best")
    with pytest.raises(InputError, match="newest; choose one of last, best, average"):
        export(run, tmp_path / "x", "newest")
    with pytest.raises(InputError, match="no model.json"):
        export(tmp_path, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_kill_leaves_the_folder_that_was_there(bestrq, tmp_path, monkeypatch):
    folder = export(bestrq[0], tmp_path / "model")
    before = (folder / "encoder.ckpt").read_bytes()
    monkeypatch.setattr(
        os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    (folder / "README.md").write_text("other")  # so that it has to be written anew
    with pytest.raises(KeyboardInterrupt):
        export(bestrq[0], folder)
    monkeypatch.undo()
    assert (folder / "encoder.ckpt").read_bytes() == before
    export(bestrq[0], folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert "other" != (folder / "README.md").read_text()


def test_a_folder_that_is_the_same_is_left_alone(bestrq):
    path = bestrq[0] / "model/encoder.ckpt"
    before = path.stat().st_ino
    export(bestrq[0], bestrq[0] / "model")
    assert path.stat().st_ino == before


def test_an_unfinished_run_says_so_once(bestrq, tmp_path, caplog):
    copy = shutil.copytree(bestrq[0], tmp_path / "CSSL.1")
    record = json.loads((copy / "model.json").read_text("utf-8"))
    (copy / "model.json").write_text(json.dumps({**record, "epochs": 18}))
    for use in (load_encoder, partial(export, folder=tmp_path / "model")):
        caplog.clear()
        use(copy)
        warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
        assert len(warnings) == 1
        assert f"{copy} is unfinished: epoch 1 of 18" in warnings[0]
    assert "epoch 1 of 18" in (tmp_path / "model/README.md").read_text("utf-8")
    caplog.clear()
    load_encoder(bestrq[0])
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_the_card_says_what_it_is(runs, bestrq):
    run, _ = runs("ctc")
    card = (run / "model/README.md").read_text("utf-8")
    rates = json.loads((run / "dev.json").read_text("utf-8"))
    errors = sum(u["char_errors"] for u in rates) / sum(u["chars"] for u in rates)
    assert f"- dev: es: CER {100 * errors:.1f} [" in card
    assert "Licence: to be filled in" in card and "license: unknown" in card
    assert "- CSSL.1: on es 0.0" in card and "objective BestRQ, epochs 1" in card
    assert "- CTC, es: on es 0.0" in card and "seed 1; commit " in card
    probe = (runs("probe")[0] / "model/README.md").read_text("utf-8")
    assert "- CSSL.1: on es 0.0" in probe and "encoder frozen" in probe
    assert "hf upload" in card and "EncoderASR.from_hparams" in card
    assert str(run) not in card and str(bestrq[0]) not in card
    card = (bestrq[0] / "model/README.md").read_text("utf-8")
    assert "WaveformEncoder" in card and "Error rates" not in card


def test_a_run_with_other_settings_leaves_the_record_alone(bestrq, ten, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(bestrq[0].parent, copy)
    before = (copy / "CSSL.1/model.json").read_bytes()
    with pytest.raises(ValueError, match="belongs to another run"):
        pretrained(BESTRQ, "--codebook_size 16 --dropout 0.1", copy, ten)
    assert (copy / "CSSL.1/model.json").read_bytes() == before


def test_an_older_phase_is_described_by_its_command(bestrq, ten, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(bestrq[0].parent, copy)
    (copy / "CSSL.1/model.json").unlink()
    shutil.rmtree(copy / "CSSL.1/model")
    pretrained(BESTRQ, "--codebook_size 16", copy, ten)
    states = [
        load_encoder(f / "model").state_dict() for f in (bestrq[0], copy / "CSSL.1")
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_modules_of_other_packages_are_not_described(ten, tmp_path, caplog):
    hparams, _ = hparams_of(f"{YAMLS}/ctc.yaml", "--size mini", tmp_path)
    from hetero_brain.pipelines.description import describe

    modules = {**hparams["modules"], "encoder": torch.nn.Linear(3, 4)}
    assert describe(modules, 8000) is None
    assert "No model folder" in caplog.text and "encoder (Linear)" in caplog.text


def test_the_hours_of_a_card(sample):
    rows = sample("train", ["en", "es"])
    seconds = {name: 3600 * figure for name, figure in hours(rows).items()}
    for domain in ("en", "es"):
        own = [row["duration"] for row in rows if row["domain"] == domain]
        assert seconds[domain] == pytest.approx(sum(own), rel=1e-5)
