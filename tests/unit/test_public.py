"""Public checkpoints: whole, as their authors run them, and trained as other encoders."""

import importlib
import json
import math
import shutil
import sys
from functools import partial

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.inference.ASR import EncoderASR
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from torch.nn.utils.rnn import pad_sequence

from hetero_brain import DomainBatch, HeteroBrain
from hetero_brain.data.recordings import Recordings
from hetero_brain.errors import InputError
from hetero_brain.models import public_source
from hetero_brain.models.public import PretrainingHeads, PublicEncoder
from hetero_brain.models.public_features import make_public_features
from hetero_brain.models.public_source import published
from hetero_brain.models.readouts import weighted_layers
from hetero_brain.models.transfer import without_a_folder
from hetero_brain.pipelines.finetuning import finetune
from hetero_brain.pipelines.pretrained import load_pretrained
from hetero_brain.pipelines.wrong_values import wrong_combinations
from hetero_brain.recognition.recogniser import load_recogniser
from hetero_brain.recognition.transcription import transcribe
from tests.public_models import (
    KINDS,
    change_tensors,
    extractor_of,
    make_model,
    save_model,
    save_small,
)
from tests.unit.trained import evaluation

SAMPLES = [9777, 16000, 4321, 300]  # a frame of a second is 320; the last fills none


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """folders(kind, saved_as) → the folder of a small model, not to be changed."""
    made = {}

    def of(kind, saved_as="Model"):
        if (kind, saved_as) not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind, saved_as] = save_small(kind, folder, saved_as)
        return made[kind, saved_as]

    return of


def speech(samples=SAMPLES, seed=0):
    """Waveforms, padded, and their relative lengths; one ends in digital silence."""
    draw = torch.Generator().manual_seed(seed)
    wavs = [torch.randn(n, generator=draw) * 0.3 + 0.1 for n in samples]
    wavs[0][-700:] = 0
    lengths = torch.tensor(samples) / max(samples)
    return wavs, pad_sequence(wavs, batch_first=True), lengths


def encode(folder, wavs, lengths, **options):
    """Lengths, encodings and layers of waveforms."""
    encoder = PublicEncoder(folder, **options).eval()
    x, frames = make_public_features(folder)(wavs, lengths)
    with torch.no_grad():
        return frames, *encoder(x, frames)


# ------------------------------------------------------------ the same as published


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("do_normalize", [True, False])
def test_an_utterance_in_a_batch_is_encoded_as_transformers_does_it_alone(
    kind, do_normalize, tmp_path
):
    model, extractor = make_model(kind), extractor_of(kind, do_normalize)
    save_model(model, kind, tmp_path, do_normalize)
    wavs, padded, lengths = speech()
    frames, encoded, hidden = encode(tmp_path, padded, lengths)
    assert len(hidden) == 3
    for i, wav in enumerate(wavs[:3]):
        inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            theirs = model(**inputs, output_hidden_states=True)
        n = frames[i]
        if kind == "w2v_bert":
            assert n == inputs["attention_mask"].sum()
        else:
            assert n == theirs.last_hidden_state.shape[1]
        pairs = [(theirs.last_hidden_state, encoded)]
        pairs += zip(theirs.hidden_states, hidden, strict=True)
        for one, other in pairs:
            torch.testing.assert_close(other[i, :n], one[0, :n], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, folders):
    wavs, padded, lengths = speech()
    frames, encoded, hidden = encode(folders(kind), padded, lengths)
    assert frames.tolist()[3] == 1 and encoded.isfinite().all()
    for i, wav in enumerate(wavs):
        n, alone, layers = encode(folders(kind), wav.unsqueeze(0), torch.ones(1))
        assert n == frames[i]
        for one, other in zip([alone, *layers], [encoded, *hidden], strict=True):
            torch.testing.assert_close(other[i, :n], one[0, :n], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [16000, 15900, 15840, 700])
def test_log_mels_are_those_of_the_extractor(samples, folders):
    features = make_public_features(folders("w2v_bert"))
    wav = torch.randn(samples).cumsum(0) / 300
    wav[samples // 2 :] *= 1e-3
    theirs = extractor_of("w2v_bert")(wav.numpy(), sampling_rate=16000)
    with torch.autocast("cpu", torch.bfloat16):
        x, frames = features(wav.unsqueeze(0), torch.ones(1))
    assert x.dtype == torch.float32 and frames == theirs["attention_mask"].sum()
    expected = torch.tensor(theirs["input_features"][0])[:frames]
    torch.testing.assert_close(x[0, :frames], expected, atol=1e-4, rtol=1e-4)
    assert frames == features.frames(torch.tensor([samples]))


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "w2v_bert"])
def test_masked_frames_become_the_models_embedding(kind, tmp_path):
    model = make_model(kind, apply_spec_augment=True)
    save_model(model, kind, tmp_path)
    wav = torch.randn(1, 16000)
    features, encoder = make_public_features(tmp_path), PublicEncoder(tmp_path).eval()
    x, frames = features(wav, torch.ones(1))
    masked = torch.zeros(1, frames, dtype=torch.bool)
    masked[:, 5:20] = True
    name = "input_features" if kind == "w2v_bert" else "input_values"
    with torch.no_grad():
        theirs = model(**{name: x}, mask_time_indices=masked).last_hidden_state
        ours, _ = encoder(x, frames, masked)
        plain, _ = encoder(x, frames)
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-2)


def test_latents_and_contexts_are_the_two_halves(folders):
    folder = folders("xlsr")
    encoder, model = PublicEncoder(folder).eval(), make_model("xlsr")
    x, frames = make_public_features(folder)(torch.randn(1, 8000), torch.ones(1))
    with torch.no_grad():
        latents = encoder.latents(x)
        both = encoder(x, frames)[0]
        assert torch.equal(encoder.contexts(latents, frames)[0], both)
        theirs = model(x).extract_features
        torch.testing.assert_close(encoder.normalized(latents), theirs)


# ---------------------------------------------------- every tensor, and only those


def old_names(tensors):
    """Names of the weight norm in checkpoints of before PyTorch 2.0."""
    new = "parametrizations.weight.original"
    renamed = {f"{new}0": "weight_g", f"{new}1": "weight_v"}
    return {
        name.replace(found, renamed[found]) if found else name: tensor
        for name, tensor in tensors.items()
        for found in [next((part for part in renamed if part in name), None)]
    }


HEADED = {
    "wav2vec2": ["Model", "ForPreTraining", "ForCTC"],
    "xlsr": ["ForPreTraining", "ForCTC"],
    "hubert": ["ForCTC"],
    "wavlm": ["ForCTC"],
    "data2vec": ["ForCTC"],
    "w2v_bert": ["ForCTC"],
}


@pytest.mark.parametrize("layout", ["safetensors", "old names", "bin"])
@pytest.mark.parametrize(
    "kind, saved_as", [(kind, name) for kind, names in HEADED.items() for name in names]
)
def test_all_layouts_give_the_same_tensors(kind, saved_as, layout, folders, tmp_path):
    shutil.copytree(folders(kind, saved_as), tmp_path, dirs_exist_ok=True)
    wanted = load_file(tmp_path / "model.safetensors")
    if layout != "safetensors":
        change_tensors(tmp_path, old_names)
    if layout == "bin":
        torch.save(
            load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin"
        )
        (tmp_path / "model.safetensors").unlink()
    model = PublicEncoder(tmp_path).model
    prefix = "" if saved_as == "Model" else f"{model.base_model_prefix}."
    state = model.state_dict()
    assert len(state) > 40
    for name, tensor in state.items():
        assert torch.equal(tensor, wanted[prefix + name]), name


def test_missing_and_left_over_tensors_are_named(tmp_path):
    save_small("wav2vec2", tmp_path, "ForPreTraining")

    def change(tensors):
        del tensors["wav2vec2.encoder.layers.1.feed_forward.output_dense.weight"]
        del tensors["wav2vec2.encoder.pos_conv_embed.conv.bias"]
        tensors["wav2vec2.encoder.layers.2.layer_norm.weight"] = torch.ones(24)
        tensors["adapter.weight"] = torch.ones(24)
        return tensors

    change_tensors(tmp_path, change)
    with pytest.raises(InputError) as error:
        PublicEncoder(tmp_path)
    lines = str(error.value).splitlines()
    assert str(tmp_path) in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "not in the checkpoint: encoder.layers.1.feed_forward.output_dense.weight",
        "not in the checkpoint: encoder.pos_conv_embed.conv.bias",
        "only in the checkpoint: adapter.weight",
        "only in the checkpoint: encoder.layers.2.layer_norm.weight",
    ]


@pytest.mark.parametrize("name", ["weight_g", "parametrizations.weight.original1"])
def test_half_a_weight_norm_is_named(name, tmp_path):
    save_small("hubert", tmp_path)

    def change(tensors):
        tensors = old_names(tensors) if name == "weight_g" else tensors
        return {key: tensor for key, tensor in tensors.items() if name not in key}

    change_tensors(tmp_path, change)
    with pytest.raises(InputError, match="pos_conv_embed.conv.parametrizations.weight"):
        PublicEncoder(tmp_path)


def test_a_tensor_of_another_shape_is_named(tmp_path):
    save_small("hubert", tmp_path)
    name = "encoder.layers.0.attention.k_proj.bias"
    change_tensors(tmp_path, lambda tensors: {**tensors, name: torch.ones(23)})
    with pytest.raises(InputError, match="not a whole model") as error:
        PublicEncoder(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_checkpoint_without_mask_embedding_encodes_but_masks_nothing(tmp_path):
    model = make_model("wav2vec2", "ForCTC")
    save_model(model, "wav2vec2", tmp_path / "hub")
    name = "wav2vec2.masked_spec_embed"
    change_tensors(
        tmp_path / "hub", lambda t: {key: t[key] for key in t if key != name}
    )
    encoder = PublicEncoder(tmp_path / "hub").eval()
    x, frames = make_public_features(tmp_path / "hub")(speech()[1], speech()[2])
    assert encoder(x, frames)[0].isfinite().all()
    with pytest.raises(ValueError, match="masked_spec_embed"):
        encoder(x, frames, torch.ones(4, frames.max(), dtype=torch.bool))
    encoder.save_pretrained(tmp_path / "mine")
    again = PublicEncoder(tmp_path / "mine")
    assert [*again.state_dict()] == [*encoder.state_dict()]
    from_settings = PublicEncoder(encoder.checkpoint.settings())
    assert [*from_settings.state_dict()] == [*encoder.state_dict()]
    # A recipe is told so before it begins.
    hparams = {"modules": {"encoder": encoder}, "mask_prob": 0.1}
    (told,) = wrong_combinations(hparams)
    assert "masked_spec_embed" in told and "mask_prob: 0" in told
    assert not [*wrong_combinations({**hparams, "mask_prob": 0})]


def test_a_mask_embedding_is_loaded_whatever_the_configuration_masks(tmp_path):
    save_small("wav2vec2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    wanted = load_file(tmp_path / "model.safetensors")["masked_spec_embed"]
    assert torch.equal(PublicEncoder(tmp_path).model.masked_spec_embed, wanted)


# ---------------------------------------------------------- one function in all passes


class Encoding(HeteroBrain):
    """Its loss is the mean square of the encodings."""

    def compute_forward(self, batch, stage):
        x, frames = self.modules.features(*batch.sig)
        return self.modules.encoder(x, frames)[0]

    def compute_objectives(self, predictions, batch, stage):
        return predictions.square().mean()


def batch_of(samples=(4000, 3000)):
    wavs, _, _ = speech(samples)
    return PaddedBatch([{"id": str(i), "sig": wav} for i, wav in enumerate(wavs)])


def brain_of(folder, run_opts=None, local_lr=0.01, **options):
    modules = {"features": make_public_features(folder)}
    modules["encoder"] = PublicEncoder(folder, **options)
    hparams = {
        "local_steps": 1,
        "local_optimizer": partial(torch.optim.SGD, lr=local_lr),
    }
    adam = partial(torch.optim.AdamW, lr=1e-3)
    brain = Encoding(
        modules, adam, hparams, run_opts={"device": "cpu", **(run_opts or {})}
    )
    brain.init_optimizers()
    brain.modules.train()
    return brain


@pytest.mark.parametrize("kind", KINDS)
def test_passes_see_one_function(kind, tmp_path):
    dropouts = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}
    save_small(kind, tmp_path, **dropouts, mask_time_prob=0.5)
    for dropout in (0.0, 0.3):
        brain = brain_of(tmp_path, local_lr=0.0, dropout=dropout)
        before = {k: v.clone() for k, v in brain.modules.state_dict().items()}
        brain.fit_batch([DomainBatch("en", (batch_of(),))])
        losses = brain.losses_and_norms()[:, 0]
        assert losses[0] == losses[1]
        plain = brain_of(tmp_path, dropout=0.0)
        plain.modules.eval()
        loss = plain.compute_forward(batch_of(), None).square().mean()
        assert torch.isclose(loss, losses[0]) == (dropout == 0.0)
        after = brain.modules.state_dict()
        changed = {k for k in after if not torch.equal(after[k], before[k])}
        assert "encoder.model.encoder.layers.1.final_layer_norm.bias" in changed
        assert not [k for k in changed if "feature_extractor" in k or "running" in k]


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_give_the_same_gradients(kind, folders):
    found = []
    for recomputed in ("none", "blocks"):
        brain = brain_of(folders(kind), dropout=0.2, recomputed=recomputed)
        torch.manual_seed(1)
        brain.fit_batch([DomainBatch("en", (batch_of(),))])
        found.append(brain.modules.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm", "w2v_bert"])
def test_bf16_runs_on_what_fp32_computes(kind, folders):
    losses = [
        brain_of(folders(kind), {"precision": precision}).fit_batch(
            [DomainBatch("en", (batch_of(),))]
        )
        for precision in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0)


def test_a_frozen_front_end_costs_no_copy_and_no_optimizer_state(folders):
    brain = brain_of(folders("wav2vec2"))
    frozen = {*brain.modules.encoder.model.feature_extractor.parameters()}
    brain.fit_batch([DomainBatch("en", (batch_of(),))])
    assert frozen and not frozen & {*brain.local_solver.params}
    assert not frozen & brain.optimizer.state.keys()
    trained = {*brain.modules.parameters()} - frozen
    assert {*brain.local_solver.params} == trained
    whole = brain_of(folders("wav2vec2"), freeze_front_end=False)
    whole.fit_batch([DomainBatch("en", (batch_of(),))])
    front_end = whole.modules.encoder.model.feature_extractor.parameters()
    assert all(whole.optimizer.state[param] for param in front_end)


def test_gradients_of_a_trained_front_end_are_those_of_transformers(folders):
    folder = folders("wav2vec2")
    encoder, model = (
        PublicEncoder(folder, freeze_front_end=False),
        make_model("wav2vec2"),
    )
    x, frames = make_public_features(folder)(torch.randn(1, 5000), torch.ones(1))
    encoder.eval()(x, frames)[0].square().mean().backward()
    model(x).last_hidden_state.square().mean().backward()
    theirs = dict(model.named_parameters())
    for name, param in encoder.model.named_parameters():
        if name != "masked_spec_embed":
            torch.testing.assert_close(
                param.grad, theirs[name].grad, atol=1e-5, rtol=1e-3
            )


def test_the_gradient_of_a_front_end_can_be_scaled(folders):
    folder, grads = folders("wav2vec2"), []
    for factor in (1.0, 0.1):
        options = {"freeze_front_end": False, "front_end_gradient": factor}
        encoder = PublicEncoder(folder, **options).eval()
        x, frames = make_public_features(folder)(speech()[1], speech()[2])
        out = encoder(x, frames)[0]
        out.square().mean().backward()
        grads.append((out, {n: p.grad for n, p in encoder.named_parameters()}))
    (whole, of_whole), (scaled, of_scaled) = grads
    assert torch.equal(whole, scaled)
    for name, grad in of_whole.items():
        if grad is not None:
            factor = 0.1 if "feature_extractor" in name else 1.0
            torch.testing.assert_close(of_scaled[name], factor * grad, msg=name)


# ------------------------------------------------------------------------ sources


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("make", [PublicEncoder, make_public_features])
def test_a_name_that_is_not_to_be_had_is_an_error_that_says_what_to_do(make, offline):
    with pytest.raises(InputError) as error:
        make("someone/no-such-model")
    message = str(error.value)
    assert "source: someone/no-such-model" in message
    assert constants.HF_HUB_CACHE in message and "HF_HUB_OFFLINE" in message
    assert "hf download someone/no-such-model --local-dir FOLDER" in message


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "model.safetensors"]
)
def test_a_folder_that_lacks_a_file_is_an_error_that_names_it(name, tmp_path):
    save_small("hubert", tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match="not a whole model") as error:
        PublicEncoder(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert name.split(".")[0] in str(error.value)


def test_another_kind_of_model_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of type bert; supported are wav2vec2 "):
        published(tmp_path)
    transformers.Wav2Vec2Config(add_adapter=True).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="add_adapter"):
        published(tmp_path)


def test_another_sampling_rate_is_refused(folders):
    with pytest.raises(InputError, match="sample_rate: 8000; .* takes 16000 Hz"):
        make_public_features(folders("hubert"), sample_rate=8000)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'hetero_brain\[public\]'"):
        importlib.reload(public_source)


def test_an_unknown_part_to_recompute_is_refused(folders):
    with pytest.raises(ValueError, match="recomputed: all; choose none or blocks"):
        PublicEncoder(folders("hubert"), recomputed="all")


@pytest.mark.parametrize("is_main", [True, False])
def test_the_main_process_downloads_first(is_main, monkeypatch, tmp_path):
    events = []

    def load(source):
        events.append("load")
        if source == "broken":
            raise OSError("no network")
        return source

    monkeypatch.setattr(public_source, "if_main_process", lambda: is_main)
    monkeypatch.setattr(public_source, "ddp_barrier", lambda: events.append("wait"))
    assert public_source.main_first("facebook/wav2vec2-base", load)
    assert events == (["load", "wait"] if is_main else ["wait", "load"])
    events.clear()
    with pytest.raises(OSError):
        public_source.main_first("broken", load)
    assert events == (["load", "wait"] if is_main else ["wait", "load"])
    events.clear()
    assert public_source.main_first(str(tmp_path), load) and events == ["load"]


# ------------------------------------------------------------- heads, settings, export


def test_heads_are_those_of_the_checkpoint(folders):
    heads = PretrainingHeads(folders("xlsr", "ForPreTraining"))
    wanted = load_file(folders("xlsr", "ForPreTraining") + "/model.safetensors")
    state = heads.state_dict()
    assert {name.split(".")[0] for name in state} == {*public_source.PRETRAINING_HEADS}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in state.items())
    assert heads.config.num_negatives == 100


@pytest.mark.parametrize(
    "kind, saved_as, lacking",
    [
        ("wav2vec2", "Model", "project_hid.bias, .*quantizer.codevectors"),
        ("wav2vec2", "ForCTC", "project_hid.bias, .*quantizer.codevectors"),
        ("hubert", "Model", "HuBERT has no quantizer"),
        ("w2v_bert", "Model", "w2v-BERT 2.0 has no quantizer"),
    ],
)
def test_a_checkpoint_without_heads_is_refused(kind, saved_as, lacking, folders):
    with pytest.raises(InputError, match=lacking) as error:
        PretrainingHeads(folders(kind, saved_as))
    assert "masked prediction" in str(error.value)


@pytest.mark.parametrize("kind", ["wav2vec2", "data2vec", "w2v_bert"])
def test_settings_make_the_same_model_without_the_source(kind, folders):
    encoder = PublicEncoder(folders(kind))
    settings = json.loads(json.dumps(encoder.checkpoint.settings()))
    again = PublicEncoder(settings)
    assert not torch.equal(*(next(e.parameters()) for e in (encoder, again)))
    again.load_state_dict(encoder.state_dict())
    wavs, lengths = speech()[1:]
    x, frames = make_public_features(settings)(wavs, lengths)
    frames_, encoded, _ = encode(folders(kind), wavs, lengths)
    assert torch.equal(frames, frames_)
    with torch.no_grad():
        assert torch.equal(again.eval()(x, frames)[0], encoded)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_model_is_the_same_in_transformers(kind, folders, tmp_path):
    encoder = PublicEncoder(folders(kind), recomputed="blocks")
    with torch.no_grad():
        for param in encoder.parameters():
            param.add_(0.05 * torch.randn_like(param))
    encoder.eval().save_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    published_config = make_model(kind).config
    for key in ("hidden_dropout", "layerdrop", "mask_time_prob", "apply_spec_augment"):
        assert getattr(model.config, key, 0) == getattr(published_config, key, 0)
    wav = torch.randn(16000)
    inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    x, frames = make_public_features(folders(kind))(wav.unsqueeze(0), torch.ones(1))
    with torch.no_grad():
        ours, theirs = encoder(x, frames)[0], model(**inputs).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["wav2vec2", "xlsr", "hubert", "wavlm"])
def test_an_adapted_model_is_the_same_in_speechbrain(kind, tmp_path):
    save_small(kind, tmp_path / "hub")
    change_tensors(tmp_path / "hub", old_names)
    encoder = PublicEncoder(tmp_path / "hub").eval()
    with torch.no_grad():
        for param in encoder.parameters():
            param.mul_(1.1)
    encoder.save_pretrained(tmp_path / "mine")
    theirs = Wav2Vec2(str(tmp_path / "mine"), save_path=str(tmp_path / "save"))
    wav = torch.randn(1, 16000)
    with torch.no_grad():
        x, frames = make_public_features(tmp_path / "hub")(wav, torch.ones(1))
        ours = encoder(x, frames)[0]
        # It normalises with an epsilon of 1e-5 where Transformers has 1e-7.
        torch.testing.assert_close(theirs.eval()(wav), ours, atol=1e-3, rtol=1e-3)


def test_random_weights_are_new_and_all_trained(folders):
    encoder = PublicEncoder(folders("wav2vec2"), recomputed="blocks")
    before = {name: param.clone() for name, param in encoder.named_parameters()}
    encoder.randomize()
    for name, param in encoder.named_parameters():
        assert param.requires_grad
        if param.dim() > 1:
            assert not torch.equal(param, before[name]), name
    assert [*before] == [name for name, _ in encoder.named_parameters()]
    assert not encoder.front_end_is_frozen


# ------------------------------------------------------------------------- fine-tuning


def fine_tuning(folder, run_folder, **changed):
    """As a recipe's ``public.yaml``, tiny."""
    encoder = PublicEncoder(folder)
    return {
        "output_folder": str(run_folder),
        "unit": "char",
        "vocab_size": 1000,
        "modules": {
            "features": make_public_features(folder),
            "encoder": encoder,
            "readout": weighted_layers(encoder),
        },
        "beam_size": None,
        "epochs": 1,
        "opt_class": partial(torch.optim.AdamW, lr=1e-3),
        "sample_rate": 16000,
        "seed": 1,
        "loader": {},
        "eval_batch_seconds": 30,
        "eval_splits": ["dev"],
        "plan": {"global_batch_seconds": 6},
        "freeze_encoder_iterations": math.inf,
        "augment": None,
        **changed,
    }


@pytest.fixture(scope="module")
def three(sample):
    """The three shortest transcribed Spanish prompts of the sample."""
    train = sample("train", ["es"])
    order = sorted(range(len(train)), key=lambda i: train.duration[i])
    return train.subset([i for i in order if " " in train[i]["wrd"]][:3])


@pytest.mark.parametrize("kind", ["hubert", "w2v_bert"])
@pytest.mark.parametrize("is_probe", [True, False])
def test_a_public_model_is_probed_and_fine_tuned(
    kind, is_probe, three, folders, tmp_path
):
    frozen = {"freeze_encoder_iterations": math.inf if is_probe else 0}
    frozen |= {} if is_probe else {"mask_prob": 0.1, "mask_span": 2}
    hparams = fine_tuning(folders(kind), tmp_path, pretrained="public", **frozen)
    run_opts, heard = {"device": "cpu", "noprogressbar": True}, []
    with evaluation(heard):
        rates = finetune(hparams, run_opts, {"train": three, "dev": three})
    assert rates["dev"]["CER"] > 0
    wanted = make_model(kind).state_dict()
    state = hparams["modules"]["encoder"].model.state_dict()
    changed = {name for name in state if not torch.equal(state[name], wanted[name])}
    assert (changed == set()) == is_probe
    assert not [name for name in changed if "feature_extractor" in name]
    assert len(hparams["modules"]["readout"].weights) == 3
    # SpeechBrain's interface hears what the evaluation heard.
    theirs = EncoderASR.from_hparams(source=str(tmp_path / "model"))
    hypotheses = {
        utterance["id"]: utterance["hypothesis"]
        for utterance in json.loads((tmp_path / "dev.json").read_text("utf-8"))
    }
    for sig, relative, (expected, lengths), ids in heard:
        log_probs = theirs.encode_batch(sig, relative)
        for row, n in enumerate(lengths):
            assert torch.equal(log_probs[row, :n], expected[row, :n])
        texts, _ = theirs.transcribe_batch(sig, relative)
        assert [" ".join(text.split()) for text in texts] == [
            hypotheses[key] for key in ids
        ]
    assert heard
    alone = theirs.load_audio(three[0]["wav"]).unsqueeze(0)
    text, _ = theirs.transcribe_batch(alone, torch.ones(1))
    assert theirs.transcribe_file(three[0]["wav"]) == text[0]
    # So does the command.
    rows = Recordings([], three)
    found = transcribe(load_recogniser(tmp_path), rows, batch_seconds=1)
    assert {row["ID"]: one["text"] for row, one in found} == hypotheses


def test_what_fine_tuning_starts_from(folders, tmp_path):
    encoder = PublicEncoder(folders("hubert"))
    start = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    without_a_folder(encoder, "public")
    assert all(torch.equal(encoder.state_dict()[name], start[name]) for name in start)
    phase = PublicEncoder(folders("hubert"))
    with torch.no_grad():
        for param in phase.parameters():
            param.add_(0.1)
    (tmp_path / "save/CKPT+1").mkdir(parents=True)
    torch.save(phase.state_dict(), tmp_path / "save/CKPT+1/encoder.ckpt")
    load_pretrained({"encoder": encoder}, tmp_path / "save/CKPT+1")
    wanted = phase.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in encoder.state_dict().items())
    without_a_folder(encoder, None)
    weight = "model.encoder.layers.0.feed_forward.output_dense.weight"
    new = encoder.state_dict()[weight]
    assert not torch.equal(new, start[weight]) and not torch.equal(new, wanted[weight])
    with pytest.raises(
        InputError, match="pretrained: public is for YAMLs with a source"
    ):
        without_a_folder(torch.nn.Linear(2, 2), "public")
