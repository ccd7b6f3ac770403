"""A recipe for a corpus of one's own, made from a recipe of this repository.

Settings of training and model are those of the recipe that it is made from. What belongs
to that recipe's corpus, such as its layout, texts, hours and sample rate, is replaced by
manifests in the data folder. Files to fill in come from ``templates/recipe``.
"""

import csv
import io
import re
import tempfile
from pathlib import Path

from ..errors import InputError

MODELS = ("VoicePrompts", "CommonVoice", "MultiDomainEnglish")
EXPERIMENT = "experiment.yaml"

# The lines of a YAML's corpus; those of training and model are taken over.
HEAD = """\
# {about}
#
#   python recipes/{name}/{kind}/train.py \\
#       recipes/{name}/{kind}/hparams/{stem}.yaml --data_folder /data/{name}
#   python recipes/{name}/{kind}/train.py \\
#       recipes/{name}/{kind}/hparams/{stem}.yaml --data_folder /data/{name} \\
#       {example}
#
"""
ABOUT = {
    "pretrain": "Pre-training on {name}: rounds of CSSL and PTLOC, and CSSL continued.",
    "ctc": "Fine-tuning with CTC: the encoder, a weighting of its layers, a CTC layer.",
    "attention": "Fine-tuning with CTC and attention: the encoder and a decoder.",
    "probe": "A probe: CTC on a frozen encoder shows what pre-training has learnt.",
    "hubert": "Continues a public model on {name}: PTLOC, and CSSL of equal compute.",
    "wav2vec2": "Continues wav2vec 2.0 on {name}: PTLOC, and CSSL of equal compute.",
    "public": "Fine-tuning of a public model with CTC, as published or continued.",
}
PUBLIC = ("hubert", "wav2vec2", "public")  # stems of YAMLs that continue public models
EXAMPLE = {
    "pretrain": "--local_steps 3 --seed 2",
    "finetune": "--pretrained results/{name}/{phases}/1/PTLOC.1 \\\n"
    "#       --output_folder results/{name}/{stem}/PTLOC.1",
}
DATA = {
    "pretrain": """\
data_folder: !PLACEHOLDER  # has train.csv, perhaps dev.csv; is {{data_root}} in them
output_folder: !ref results/{name}/{stem}/<seed>  # one per run; it resumes there
pretrain_domains: []  # names from the column domain; []: all
sample_rate: 16000  # Hz; audio of other rates is resampled as it is read
""",
    "finetune": """\
data_folder: !PLACEHOLDER  # has train.csv, dev.csv, test.csv; is {{data_root}} in them
output_folder: results/{name}/{stem}  # one for each pretrained and list of domains
finetune_domains: []  # names from the column domain; []: all that have words
max_finetune_hours: null  # labelled speech of each domain; null: all
data_seed: 1  # draws these hours; separate from seed, so that all runs get the same data
eval_splits: [dev]  # or test, or both; test once only, for the final table
sample_rate: 16000  # Hz; of a pre-trained model: its own
""",
    "experiment": """\
# Pre-trains on {name}, and fine-tunes the models on each of its domains.
#
#   python -m hetero_brain experiment recipes/{name}/experiment.yaml \\
#       --data_folder /data/{name}
#
data_folder: !PLACEHOLDER  # has train.csv, dev.csv, test.csv; is {{data_root}} in them
output_folder: results/{name}/experiment
""",
}
# Patterns of lines that speak of a corpus, or of the hardware that its recipe is for,
# wherever they stand → what is there instead.
SPEAK_OF_CORPUS = {
    r"(^#.*\n)+(?=local_lr:)": (
        "# α, the rate of the local steps. --find_local_lr True measures it for this\n"
        "# data before PTLOC.1.\n"
    ),
    r"(^#.*\n)+^alphabet:.*\n": "",
    r": 94 frames/s at 48 kHz": ": 31 frames/s at 16 kHz",
    r"^( +)finetune_domains: .*": r"\1finetune_domains: []  # FILL IN: one run for each",
    r"options: --speed_changes \[100\].*": 'options: ""',
    r": ctc/PTLOC\.1/1/es$": ": judge/model/seed/domain",
    r"^eval_splits: \[test\].*": "eval_splits: [dev]  # dev, test or both",
    r"^# 24 GB: (.*\n# )*.*\n(?=global_batch_seconds:)": "",
    r"^global_batch_seconds: 3200$": "global_batch_seconds: 400",  # of one GPU of eight
    r"^replicas_per_domain: 8 .*": (
        "replicas_per_domain: 1  # local solves per domain; raise it for more ranks than "
        "domains"
    ),
}
# In rows of tests: keys of a corpus, a domain, and the split that is evaluated.
OPTIONS_OF_CORPUS = {
    r"--(domains_file|max_pretrain_hours|max_test_hours) \S+ ?": "",
    r"\[libri\]": "[en]",
    r"test\.json": "dev.json",
}


def make_recipe(name, like=MODELS[0], root="."):
    """Make a recipe and the rows of its tests.

    Arguments
    ---------
    name : str
        Name of the recipe and its folder.
    like : str
        The recipe of this repository whose settings it has.
    root : str or Path
        The folder of the clone.

    Returns
    -------
    Path
        The folder of the recipe.

    Raises
    ------
    InputError
        If the name cannot be one, if it is taken, or if this is no clone.
    """
    root = Path(root)
    folder, rows = root / "recipes" / name, root / f"tests/recipes/{name}.csv"
    check_name(name)
    for needed in ("recipes", "templates/recipe", "tests/recipes"):
        if not (root / needed).is_dir():
            raise InputError(
                f"{root.resolve()}: no folder {needed} here; a recipe is made in a clone "
                "of hetero_brain: change to its folder, and start this command again"
            )
    taken = {path.name.lower(): path for path in (root / "recipes").iterdir()}
    if path := taken.get(name.lower(), rows if rows.exists() else None):
        raise InputError(f"{path} exists already; choose another name, or remove it")
    with tempfile.TemporaryDirectory(dir=root, prefix=".recipe-") as temporary:
        made = Path(temporary) / name  # as a whole, or not at all
        fill(made, root, name, like)
        text = test_rows(root, name, like, made)
        made.rename(folder)
    rows.write_text(text, "utf-8")
    return folder


def check_name(name):
    """Raise an InputError unless a name is good for a folder and for Python modules."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(
            f"{name!r} cannot name a recipe, since its modules are named after it: begin "
            "with a letter, and use only letters a to z, digits and _, as in MyCorpus"
        )


def snake(name):
    """``MyCorpus`` → ``my_corpus``, as modules are called."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def fill(made, root, name, like):
    """Write all files of a recipe to the folder ``made``."""
    source, glue = root / "recipes" / like, root / "recipes" / MODELS[0]
    stems = {
        kind: sorted(path.stem for path in source.glob(f"{kind}/hparams/*.yaml"))
        for kind in ("pretrain", "finetune")
    }
    for kind in stems:
        (made / kind / "hparams").mkdir(parents=True)
        script = Path(kind, "train.py")
        text = train_script((glue / script).read_text("utf-8"), kind, name, stems)
        (made / script).write_text(text, "utf-8")
        for stem in stems[kind]:
            path = Path(kind, "hparams", f"{stem}.yaml")
            text = hparams((source / path).read_text("utf-8"), kind, stem, name, stems)
            (made / path).write_text(text, "utf-8")
    text = experiment((source / EXPERIMENT).read_text("utf-8"), name)
    (made / EXPERIMENT).write_text(text, "utf-8")
    template = root / "templates/recipe"
    for path, text in {
        f"{snake(name)}_prepare.py": (template / "prepare.py").read_text("utf-8"),
        "README.md": readme((template / "README.md").read_text("utf-8"), name, stems),
    }.items():
        text = text.replace("MyCorpus", name).replace("my_corpus", snake(name))
        (made / path).write_text(text, "utf-8")


def train_script(text, kind, name, stems):
    """A ``train.py``, from that of the first of :data:`MODELS`."""
    old, new = snake(MODELS[0]), snake(name)
    intro = f"{'Pre-train' if kind == 'pretrain' else 'Fine-tune an encoder'} on {name}"
    folder = f"recipes/{name}/{kind}"
    command = (
        f"> python {folder}/train.py \\\\\n"
        f"    {folder}/hparams/{stems[kind][0]}.yaml --data_folder /data/{name}"
    )
    text = re.sub(r'(?<=""")[^:,\n]+(?=[:,])', intro, text, count=1)
    text = re.sub(r"> python \S*train\.py(.*\\\n)*.*", command, text, count=1)
    text = text.replace(old, new)
    return text.replace(
        f'hparams["{kind}_domains"]', f'hparams["{kind}_domains"] or None'
    )


def phases_for(stem, stems):
    """The stem of the first pre-training YAML whose phases a fine-tuning YAML takes."""
    return next(s for s in stems["pretrain"] if (s in PUBLIC) == (stem in PUBLIC))


def hparams(text, kind, stem, name, stems):
    """A YAML of pre-training or fine-tuning, from that of another recipe.

    The first two paragraphs of a YAML are its description with the seed, and its data.
    """
    first, data, rest = text.split("\n\n", 2)
    words = {"kind": kind, "name": name, "stem": stem}
    words["phases"] = phases_for(stem, stems)
    about = ABOUT.get(stem, ABOUT["pretrain"]).format(**words)
    head = HEAD.format(about=about, example=EXAMPLE[kind].format(**words), **words)
    banner = first[first.index("# ---") :]
    window = re.findall(r"^max_utterance_seconds:.*", data, re.M)  # of pre-training
    data = "\n".join([DATA[kind].format(**words).rstrip("\n"), *window])
    return without_corpus("\n\n".join([head + banner, data, rest]))


def experiment(text, name):
    """The YAML of an experiment, from that of another recipe."""
    settings = text[text.index("seeds:") :]
    return without_corpus(DATA["experiment"].format(name=name) + settings)


def without_corpus(text):
    """A YAML without the lines that speak of a corpus."""
    for pattern, instead in SPEAK_OF_CORPUS.items():
        text = re.sub(pattern, instead, text, flags=re.M)
    return text


def readme(text, name, stems):
    """The README, with the commands of the YAMLs."""
    recipe = f"recipes/{name}"
    commands = {"PRETRAIN": [], "FINETUNE": [], "PUBLIC": []}
    for kind in ("pretrain", "finetune"):
        for stem in stems[kind]:
            yaml = f"{recipe}/{kind}/hparams/{stem}.yaml"
            line = f"python {recipe}/{kind}/train.py {yaml} --data_folder $DATA"
            if kind == "finetune":
                phase = f"results/{name}/{phases_for(stem, stems)}/1/PTLOC.1"
                line += f" --finetune_domains [en] --pretrained {phase}"
                line += f" --output_folder results/{name}/{stem}/PTLOC.1/en"
            commands["PUBLIC" if stem in PUBLIC else kind.upper()].append(line)
    commands["EXPERIMENT"] = [
        f"python -m hetero_brain experiment {recipe}/{EXPERIMENT} --data_folder $DATA"
    ]
    for mark, lines in commands.items():
        text = text.replace(f"\n{mark}\n", "\n{}\n".format("\n".join(lines)))
    return text


def test_rows(root, name, like, made):
    """The rows of the tests of the YAMLs that are in ``made``, as CSV."""
    changes = {f"recipes/{like}/": f"recipes/{name}/", snake(like): snake(name)}
    kept = []
    with open(root / f"tests/recipes/{like}.csv", encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            for old, new in changes.items():
                row = [field.replace(old, new) for field in row]
            for pattern, instead in OPTIONS_OF_CORPUS.items():
                row = [re.sub(pattern, instead, field) for field in row]
            yaml = Path(row[3])  # the column Hparam_file
            if not kept or (made / yaml.relative_to(f"recipes/{name}")).exists():
                kept.append([name if field == like else field for field in row])
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(kept)
    return table.getvalue()
