"""Fine-tuning from manifests: the last call of every recipe's finetune/train.py."""

from functools import partial
from pathlib import Path

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from ..data.augmentation import WaveformAugmentation
from ..data.datasets import Utterances
from ..data.loaders import dev_loader, make_plan, train_loader
from ..models.conformer import make_head
from ..models.transfer import PUBLIC, without_a_folder
from ..recognition.ctc import CTCBrain
from ..recognition.joint import N_MARKS, JointBrain, joint_search
from ..recognition.search import check_search, ctc_search
from ..recognition.spelling import leave_out_unspellable
from ..recognition.tokenizer import train_tokenizer, warn_of_unknown
from ..training.checkpoints import AtomicCheckpointer
from ..training.fingerprint import fingerprint
from ..training.loggers import further_loggers, run_loggers
from ..training.settings import PIPELINE_SETTINGS, check_settings
from ..training.stopping import PatientCounter
from .closing import end_finetuning
from .curves import plot_finetuning
from .export import export_at_end
from .look_ahead import Length, look_ahead
from .pretrained import load_pretrained, start_of
from .recipe_run import recipe_brain
from .run_record import record_finetuning

logger = get_logger(__name__)

LM_KEYS = ("lm", "lm_alpha", "lm_beta")


def finetune(hparams, run_opts, splits):
    """Fine-tune with CTC, or CTC and attention, and evaluate the best epoch.

    Utterances that CTC cannot spell are logged; only a ``decoder`` trains on them. Writes
    ``<output_folder>/<split>.json`` for every split in ``eval_splits`` that has rows,
    losses and error rates as ``curves.png``, and a model folder, ``model``.

    Arguments
    ---------
    hparams : dict
        As in a recipe's ``ctc.yaml`` or, with a ``decoder``, ``attention.yaml``.
        Optional keys: ``alphabet`` (see :func:`train_tokenizer`), ``character_domains``
        (see :class:`CTCBrain`), ``lm``, ``lm_alpha`` and ``lm_beta`` (see
        :func:`ctc_search`), ``patience`` (epochs without a lower CER on dev after which
        to stop) and ``train_logger`` (see :func:`further_loggers`).
    run_opts : RunOptions or dict
        SpeechBrain's run options.
    splits : dict
        ``train``, ``dev`` and those of ``eval_splits`` that have rows → Manifest of
        transcribed speech; see :func:`splits.finetuning_splits`.

    Returns
    -------
    dict
        Split → error rates, from :func:`error_rates`.
    """
    folder = Path(hparams["output_folder"])
    rate, seed, options = hparams["sample_rate"], hparams["seed"], hparams["loader"]
    settings = check_settings(hparams, PIPELINE_SETTINGS)
    check_search(hparams["beam_size"], hparams.get("lm"))
    tokenizer, splits = spelt(hparams, splits)
    train = splits["train"]
    kind, modules, searches = recogniser(hparams, tokenizer)
    stateful = {k: m for k, m in modules.items() if m.state_dict()}
    counter = PatientCounter(hparams["epochs"], settings["patience"])
    checkpointer = AtomicCheckpointer(
        folder / "save",
        {**stateful, "counter": counter},
        keep_last=hparams.get("keep_last", 2),
    )
    brain = recipe_brain(kind)(
        modules=modules,
        opt_class=hparams["opt_class"],
        hparams={
            **hparams,
            "tokenizer": tokenizer,
            "searches": searches,
            "character_domains": hparams.get("character_domains", ()),
            "loggers": run_loggers(folder) + further_loggers(settings["train_logger"]),
        },
        run_opts=run_opts,
        checkpointer=checkpointer,
    )
    utterances = {k: Utterances(m, rate, tokenizer.encode) for k, m in splits.items()}
    if hparams.get("wav_augment") is not None:
        utterances["train"].augment = WaveformAugmentation(hparams["wav_augment"], seed)
    dev = {
        split: dev_loader(utterances[split], hparams["eval_batch_seconds"], **options)
        for split in utterances.keys() - {"train"}
    }
    plan = make_plan(train, seed, **hparams["plan"])
    length = hparams["epochs"], hparams.get("warmup_iterations", 0)
    look_ahead(plan, train, rate, [Length("fine-tuning", *length)], run_opts)
    loader = train_loader(utterances["train"], plan, **options)
    checkpointer.add_recoverable("audit", loader, optional_load=True)
    checkpointer.fingerprint = fingerprint(
        brain,
        hparams,
        train,
        **start_of(hparams["pretrained"], modules),
        units=[tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())],
    )
    brain.on_recovered = partial(
        record_finetuning, folder, counter, modules, tokenizer, hparams, train
    )
    brain.fit(counter, loader, dev["dev"])
    rates = {
        split: brain.evaluate_to(folder / f"{split}.json", dev[split])
        for split in hparams["eval_splits"]
        if split in dev
    }
    run_on_main(plot_finetuning, args=[folder, folder / "curves.png"])
    export_at_end(folder)
    end_finetuning(folder, rates, brain.debug)
    return rates


def spelt(hparams, splits):
    """The tokenizer of a run, and the splits without what CTC cannot spell with it.

    Arguments
    ---------
    hparams, splits : dict
        As for :func:`finetune`.

    Returns
    -------
    tokenizer : SentencePieceProcessor
        Trained on the words of ``train``, or by an earlier start of the run.
    splits : dict
        See :func:`leave_out_unspellable`.
    """
    tokenizer = train_tokenizer(
        (row["wrd"] for row in splits["train"]),
        Path(hparams["output_folder"]) / "tokenizer.model",
        hparams["unit"],
        hparams["vocab_size"],
        hparams.get("alphabet", ""),
    )
    for split in splits.keys() - {"train"}:
        warn_of_unknown(tokenizer, (row["wrd"] for row in splits[split]), split)
    features, has_decoder = hparams["modules"]["features"], "decoder" in hparams
    rate = hparams["sample_rate"]
    return tokenizer, leave_out_unspellable(
        splits, tokenizer, features, rate, has_decoder
    )


def recogniser(hparams, tokenizer):
    """The class of the Brain to fine-tune, its modules and its searchers.

    Arguments
    ---------
    hparams : dict
        As for :func:`finetune`.
    tokenizer : SentencePieceProcessor
        Its pieces are the first output units.

    Returns
    -------
    kind : type
        CTCBrain or JointBrain.
    modules : dict
        Those of ``hparams`` with the pre-trained encoder, and new output layers.
    searches : dict
        Stage → SpeechBrain's searcher.
    """
    modules, pieces = {**hparams["modules"]}, tokenizer.get_piece_size()
    encoder, joint = modules["encoder"], "decoder" in hparams
    n_outputs = pieces + (N_MARKS if joint else 1)
    new = {"ctc": make_head(encoder, n_outputs)}
    searches = {}
    if joint:
        new["decoder"] = hparams["decoder"](encoder.d_model, n_outputs)
        searches[sb.Stage.TEST] = joint_search(
            new,
            pieces,
            hparams["beam_size"],
            hparams["search_ctc_weight"],
            hparams["max_decode_ratio"],
        )
    elif hparams["beam_size"] is not None:
        given = {key: hparams[key] for key in LM_KEYS if key in hparams}
        searches[sb.Stage.TEST] = ctc_search(tokenizer, hparams["beam_size"], **given)
    modules |= new
    if hparams["pretrained"] in (None, PUBLIC):
        without_a_folder(encoder, hparams["pretrained"])
    else:
        rate, names = hparams["sample_rate"], ("features", "encoder")
        load_pretrained(modules, hparams["pretrained"], rate, names)
    return JointBrain if joint else CTCBrain, modules, searches
