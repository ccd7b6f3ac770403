"""Makes a recipe for a corpus of one's own.

> python -m hetero_brain recipe MyCorpus --like CommonVoice
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from ..pipelines.new_recipe import MODELS, make_recipe

DESCRIPTION = """\
Make a recipe for a corpus of your own: recipes/NAME, with tests/recipes/NAME.csv.

It takes manifests, with the columns ID,duration,wav,start,stop,domain,spk_id,wrd, in its
data_folder: train.csv, dev.csv (which pre-training can do without) and, if there is one,
test.csv. The command manifests makes those of audio without words. Start it from the
folder of a clone.

What a recipe like each of ours has for pre-training, and for fine-tuning beside ctc and
attention:
  VoicePrompts         bestrq, hubert; probe, public
  CommonVoice          bestrq, cpc, hubert, wav2vec2; public
  MultiDomainEnglish   base, paper and tiny (BEST-RQ), hubert, wav2vec2; public
hubert, wav2vec2 and public go on from public models; all others start from scratch."""

# A try that is short, whatever the recipe is like, and suits minutes of speech.
SHORT = (
    "--size mini --n_rounds 1 --global_batch_seconds 20 --warmup_iterations 10 --debug"
)


def main(words):
    """Make a recipe and say what to do with it."""
    parser = ArgumentParser(
        "python -m hetero_brain recipe",
        description=DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="of its folder, such as MyCorpus")
    about = "the recipe whose settings it has: %(choices)s (default: %(default)s)"
    parser.add_argument("--like", choices=MODELS, default=MODELS[0], help=about)
    given = parser.parse_args(words)
    folder = make_recipe(given.name, given.like)
    yaml = sorted(folder.glob("pretrain/hparams/*.yaml"))[0]
    print(
        f"{folder} is ready for a folder with train.csv, and dev.csv to validate on; see "
        "its README.md.\n"
        f"Try it: python {folder}/pretrain/train.py {yaml} --data_folder DATA {SHORT}"
    )
