"""A whole experiment: pre-train, fine-tune every model on every domain, tabulate.

> python -m hetero_brain experiment recipes/VoicePrompts/experiment.yaml --data_folder /

Each step, a phase or a fine-tuning run, is one command of a recipe's ``train.py``;
``commands.txt`` lists them, so that any can be run alone. Phases that start from the
same phase run in parallel. A repeated run executes only the steps that have not finished.
Options of steps are keys inside keys: --judges.probe.options '--epochs 3' replaces those
that the YAML has.

A signal (see ``preemption``) makes the experiment and its running steps save and exit.
"""

from ..pipelines.usage import HELP, usage


def main(argv):
    """Run the experiment and print its tables."""
    if HELP & {*argv}:
        print(usage("python -m hetero_brain experiment", __doc__, argv))
        return
    from ..pipelines.experiment import run_experiment

    run_experiment(argv)
