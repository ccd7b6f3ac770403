"""One key has one name, in every YAML of the collection where it applies."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
KINDS = {
    "pretrain": "*/pretrain/hparams/*.yaml",
    "finetune": "*/finetune/hparams/*.yaml",
    "experiment": "*/*.yaml",
}
NAMES = sorted(path.parent.name for path in RECIPES.glob("*/pretrain"))
OTHER = ("domains.yaml",)  # describes corpora, and is no recipe's hparams

# Recipes with CPC.
WITH_CPC = "|".join(
    f"^{p.parts[-4]}/" for p in RECIPES.glob("*/pretrain/hparams/cpc.yaml")
)


# Kind and key, or keys that belong together → the only YAMLs where it applies, and why.
MDE, CV = "^MultiDomainEnglish/", "^CommonVoice/"
MELS = "bestrq|base|paper|tiny"  # pre-training of a Conformer on log-mels
OWN = f"{MELS}|cpc"  # of a Conformer at all; what follows continues a public model
FITTED = "ctc|attention|probe"  # fine-tuning of a Conformer
EXCEPTIONS = {
    ("pretrain", "domains_file"): (MDE, "other recipes know their domains"),
    ("finetune", "domains_file"): (MDE, "other recipes know their domains"),
    ("pretrain", "manifest_folder"): (MDE, "others prepare in a minute at most"),
    ("finetune", "manifest_folder"): (MDE, "others prepare in a minute at most"),
    ("pretrain", "data_seed"): (f"{MDE}|{CV}", "VoicePrompts has no cap to draw by"),
    ("pretrain", "pretrain_splits"): (CV, "others have one split for it"),
    ("pretrain", "max_pretrain_hours"): (CV, "domains.yaml has caps; VoicePrompts 2 h"),
    ("finetune", "max_test_hours"): (CV, "domains.yaml has caps; VoicePrompts 2 h"),
    ("pretrain", "keep_speakers_apart"): (
        CV,
        "in domains.yaml; VoicePrompts has 1 each",
    ),
    ("finetune", "keep_speakers_apart"): (
        CV,
        "in domains.yaml; VoicePrompts has 1 each",
    ),
    ("pretrain", "n_rounds cssl cssl_epochs cssl_hold_epochs cssl_lr"): (
        OWN,
        "a public checkpoint is what CSSL.1 would give",
    ),
    ("pretrain", "front_end stack size"): (OWN, "a public model has its own"),
    ("finetune", "front_end stack size n_mels deltas input_size"): (
        FITTED,
        "a public model has its own",
    ),
    ("pretrain", "input_size"): (f"{OWN}|hubert", "wav2vec 2.0 has its own"),
    ("pretrain", "source freeze_front_end front_end_gradient"): (
        "wav2vec2|hubert",
        "of public models",
    ),
    ("finetune", "source freeze_front_end front_end_gradient"): (
        "public",
        "of public models",
    ),
    ("finetune", "mask_prob mask_span"): ("public", "others drop feature frames"),
    ("pretrain", "n_mels deltas"): (MELS, "others take raw audio"),
    ("pretrain", "noise_std"): (MELS, "public models have a mask embedding"),
    ("pretrain", "mask_prob mask_span"): (
        f"{MELS}|wav2vec2|hubert",
        "CPC masks nothing",
    ),
    ("pretrain", "labels codebook_size n_codebooks quantizer output"): (
        f"{MELS}|hubert",
        "contrastive losses have no labels",
    ),
    ("pretrain", "cuda_graphs"): (MELS, "passes of others have too many shapes"),
    ("pretrain", "targets teacher_layer"): ("hubert", "labels of a public model"),
    ("pretrain", "n_negatives"): ("cpc|wav2vec2", "of contrastive losses"),
    ("pretrain", "n_positives predictor"): ("cpc", "of CPC"),
    ("pretrain", "diversity_weight feature_penalty heads"): ("wav2vec2", "its own"),
    ("pretrain", "gumbel_max gumbel_min gumbel_decay"): ("wav2vec2", "its own"),
    ("pretrain", "causal"): ("cpc", "only CPC needs a causal encoder"),
    ("finetune", "causal"): (
        f"({WITH_CPC}).*({FITTED})",
        "only CPC needs a causal encoder",
    ),
    ("finetune", "band_drops"): (
        f"({WITH_CPC}).*({FITTED})",
        "others always have mel filters",
    ),
    ("finetune", "encoder_lr"): ("ctc|attention|public", "a probe's encoder is frozen"),
    ("finetune", "drop_time drop_bands"): (FITTED, "waveforms have no feature frames"),
    ("finetune", "ctc_weight label_smoothing decoder"): ("attention", "the decoder's"),
    ("finetune", "max_decode_ratio search_ctc_weight"): ("attention", "the decoder's"),
    ("finetune", "lm lm_alpha lm_beta"): ("ctc|probe|public", "of CTC's beam search"),
    ("finetune", "alphabet"): (f"{MDE}.*(ctc|public)", "the paper's 42 units"),
}
ONLY = {
    (kind, key): where
    for (kind, keys), (where, _) in EXCEPTIONS.items()
    for key in keys.split()
}
# Keys of one kind that the other has no use for: data, and how a run goes.
ONLY_PRETRAIN = {
    "pretrain_splits",  # transcripts exist for one split
    "max_pretrain_hours",  # of VoicePrompts and MultiDomainEnglish: not capped here
    "max_utterance_seconds",  # a transcript is of a whole utterance
    "domain_sampling",  # fine-tuning goes through all of a few domains
    "temperature",
    "domains_per_iteration",
    "milestone_interval",  # fine-tuning keeps its best checkpoint
}
ONLY_FINETUNE = {"max_finetune_hours", "max_test_hours", "eval_splits"}
ONLY_FINETUNE |= {"eval_batch_seconds"}  # pre-training validates in its own batches


def files(kind):
    """Name → text of the YAMLs of a kind."""
    found = sorted(path for path in RECIPES.glob(KINDS[kind]) if path.name not in OTHER)
    assert found
    return {str(p.relative_to(RECIPES)): p.read_text("utf-8") for p in found}


def tree(text):
    """A YAML as it stands."""
    return YAML().load(text)


def is_plain(node):
    """Whether a node is a mapping without a tag."""
    return hasattr(node, "items") and getattr(node.tag, "value", None) is None


def faults_of_kind(kind, texts):
    """What differs in the keys of YAMLs of a kind and is not in the table."""
    trees = {name: tree(text) for name, text in texts.items()}
    keys = dict.fromkeys(key for node in trees.values() for key in node)
    for key in keys:
        where = ONLY.get((kind, key), "")
        for name, node in trees.items():
            applies = re.search(where, name) is not None
            if applies != (key in node):
                yield f"{name}: {key} {'is missing' if applies else 'is not of here'}"
    for key, where in [(key, w) for (k, key), w in ONLY.items() if k == kind]:
        if key not in keys or all(re.search(where, name) for name in texts):
            yield f"{key}: the table has it, but it is no exception"


def inner_keys(node, prefix=""):
    """The keys of plain mappings in a mapping, joined by dots."""
    for key, child in node.items():
        if is_plain(child):
            yield from inner_keys(child, f"{prefix}{key}.")
        elif prefix:
            yield f"{prefix}{key}"


def order(texts):
    """Pairs of keys and banners that stand in one order in a YAML and in another one in
    another."""
    before = {}
    for name, text in texts.items():
        lines = re.findall(r"^(?:\w+:|# -+ .+$)", text, re.MULTILINE)
        for i, later in enumerate(lines):
            for earlier in lines[:i]:
                before.setdefault((earlier, later), name)
    return [
        f"{earlier} {later} {name} and {before[later, earlier]}"
        for (earlier, later), name in before.items()
        if (later, earlier) in before and earlier < later
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_yamls_of_a_kind_have_the_same_keys(kind):
    assert [*faults_of_kind(kind, files(kind))] == []


def test_what_recipes_of_speechbrain_have_is_explained():
    for kind in ("pretrain", "finetune"):
        for name, text in files(kind).items():
            for key in ("save_folder", "epoch_counter", "checkpointer"):
                assert key in text, name


@pytest.mark.parametrize("kind", KINDS)
def test_yamls_of_a_kind_have_the_same_order_and_banners(kind):
    assert order(files(kind)) == []
    banners = [re.findall(r"^# -+ .+$", text, re.M) for text in files(kind).values()]
    assert all(banners[0] == others for others in banners)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_mappings_of_a_kind_have_the_same_keys(kind):
    seen = {}
    for name, text in files(kind).items():
        node = tree(text)
        for key in ("plan", "loader", "cssl", "ptloc"):
            if key in node:
                inner = [*inner_keys({key: node[key]})]
                assert seen.setdefault(key, inner) == inner, name


def test_judges_have_the_same_keys():
    wanted = ["hparams", "seeds", "finetune_domains", "options"]
    for name, text in files("experiment").items():
        for judge in tree(text)["judges"].values():
            assert [*judge] == wanted, name


def section(text, title):
    """The keys between two banners."""
    part = re.search(rf"^# -+ {title}$(.*?)(^# -|\Z)", text, re.M | re.S)[1]
    return set(re.findall(r"^(\w+):", part, re.M))


@pytest.mark.parametrize("recipe", NAMES)
def test_pretraining_and_finetuning_share_their_names(recipe):
    before, after = (
        [text for name, text in files(kind).items() if name.startswith(f"{recipe}/")]
        for kind in ("pretrain", "finetune")
    )
    data = [
        {re.sub("pretrain_|finetune_", "", key) for key in keys - only}
        for texts, only in ((before, ONLY_PRETRAIN), (after, ONLY_FINETUNE))
        for keys in [set.union(*(section(text, "run and data") for text in texts))]
    ]
    assert data[0] - {"data_seed"} == data[1] - {"data_seed"} and "domains" in data[0]
    keys = [
        set.union(*(set(tree(text)) for text in texts)) for texts in (before, after)
    ]
    running = {"pretrained", "opt_class", "max_grad_norm", "ckpt_interval_minutes"}
    running |= {"keep_last", "valid_interval", "precision", "log_interval"}
    encoder = {"front_end", "stack", "n_mels", "deltas", "causal", "features"}
    encoder |= {"input_size", "size", "dropout", "encoder", "modules"}
    for key in running | encoder - {"causal"}:
        assert key in keys[0] and key in keys[1], key
    assert ("causal" in keys[0]) == ("causal" in keys[1])


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_key_in_one_yaml_alone_is_found(kind):
    texts = files(kind)
    name = [*texts][-1]
    extra = {**texts, name: f"{texts[name]}\nwarmup_steps: 1\n"}
    others = [f"{other}: warmup_steps is missing" for other in texts if other != name]
    assert [*faults_of_kind(kind, extra)] == others
    less = {**texts, name: re.sub(r"^num_workers: .*\n", "", texts[name], flags=re.M)}
    assert [*faults_of_kind(kind, less)] == [f"{name}: num_workers is missing"]
    moved = {**texts, name: "seed: 1\nlog_interval: 1\nprecision: fp32\n"}
    assert [fault.split()[:2] for fault in order(moved)] == [
        ["log_interval:", "precision:"]
    ]
