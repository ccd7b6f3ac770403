"""The ``hyperparams.yaml`` of a model folder, from the modules that a run trains."""

import logging

from ..models.model_yaml import ALLOWED, write_description
from ..models.recorded import Call, Ref
from ..recognition.recogniser import SEARCH

logger = logging.getLogger(__name__)

ENCODER = ("features", "encoder")
MODELS, RECOGNITION = "hetero_brain.models", "hetero_brain.recognition.interfaces"
COMMENTS = {
    "sample_rate": "Hz",
    "beam_size": "hypotheses in the search; null: greedy",
    "search_ctc_weight": "of CTC in the search; the decoder has the rest",
    "max_decode_ratio": "longest output, in tokens per encoder frame",
    "modules": "for SpeechBrain's interfaces",
    "pretrainer": "of <name>.ckpt",
}


def describe(modules, sample_rate, search=None, tokenizer=None):
    """The description of an encoder, or of a recogniser.

    Arguments
    ---------
    modules : dict
        ``features`` and ``encoder``, of a recogniser also ``readout``, ``ctc`` and, for
        attention, ``decoder``; others are left out.
    sample_rate : int
        Of the features, in Hz.
    search : dict
        Of a recogniser: ``beam_size``, ``search_ctc_weight``, ``max_decode_ratio``, as
        far as it has them.
    tokenizer : sentencepiece.SentencePieceProcessor
        Of a recogniser.

    Returns
    -------
    str
        YAML in the layout of SpeechBrain's published models; None, with a warning, if a
        module does not say how it was made, so that only its own code could make it.
    """
    keys = ENCODER + (("readout", "ctc", "decoder") if tokenizer else ())
    keys = [key for key in keys if key in modules or key in ENCODER]
    calls = {key: getattr(modules.get(key), "made_by", None) for key in keys}
    if unknown := [
        k for k, call in calls.items() if not call or call.name not in ALLOWED
    ]:
        names = ", ".join(f"{k} ({type(modules.get(k)).__name__})" for k in unknown)
        logger.warning(
            f"No model folder will be written, since it can only describe modules made "
            f"by functions of hetero_brain, which these are not: {names}"
        )
        return None
    loadables = {key: Ref(key) for key in keys if modules[key].state_dict()}
    values = {"sample_rate": sample_rate, **calls}
    if tokenizer is None:
        values |= {"waveform_encoder": _call("Embeddings", *ENCODER, room=MODELS)}
        used = {"encoder": Ref("waveform_encoder")}
    else:
        loadables["tokenizer"] = Ref("tokenizer")
        extra, used = _recogniser(len(tokenizer), "decoder" in keys, search, tokenizer)
        values |= extra
    normalizer = "speechbrain.dataio.preprocess.AudioNormalizer"
    pretrainer = "speechbrain.utils.parameter_transfer.Pretrainer"
    values |= {
        "modules": used,
        "audio_normalizer": Call(
            "new", normalizer, {"sample_rate": Ref("sample_rate")}
        ),
        "pretrainer": Call("new", pretrainer, {"loadables": loadables}),
    }
    return write_description(values, COMMENTS)


def _call(name, *keys, room=RECOGNITION, **arguments):
    """A call of a class for SpeechBrain's interfaces, with references to modules."""
    room = f"{MODELS}.speech_encoder" if room == MODELS else room
    references = {key: Ref(key) for key in (*keys, "sample_rate")}
    return Call("new", f"{room}.{name}", references | arguments)


def _recogniser(pieces, joint, search, tokenizer):
    """What the description of a recogniser has besides its modules, and the modules that
    SpeechBrain's interfaces use."""
    values = {"tokenizer": Call("new", "sentencepiece.SentencePieceProcessor")}
    values |= {key: search[key] for key in SEARCH if key in search}
    if joint:
        values["encoded"] = _call("Encoded", *ENCODER, "readout")
        arguments = {key: Ref(key) for key in ("decoder", "ctc", "beam_size")}
        arguments |= {"n_pieces": pieces, "ctc_weight": Ref("search_ctc_weight")}
        arguments |= {"max_decode_ratio": Ref("max_decode_ratio")}
        values["search"] = Call("new", f"{RECOGNITION}.JointSearch", arguments)
        return values, {"encoder": Ref("encoded"), "decoder": Ref("search")}
    modules = (*ENCODER, "readout", "ctc")
    values["posteriors"] = _call("Posteriors", *modules, blank_id=pieces)
    if search["beam_size"] is None:
        greedy = Call("name", f"{RECOGNITION}.greedy", {"blank_id": pieces})
        values["decoding_function"] = greedy
    else:
        unknown = tokenizer.decode([tokenizer.unk_id()])
        values["decoding_function"] = Call("name", f"{RECOGNITION}.BeamSearch")
        values["test_beam_search"] = {"beam_size": Ref("beam_size"), "unknown": unknown}
    return values, {"encoder": Ref("posteriors")}
