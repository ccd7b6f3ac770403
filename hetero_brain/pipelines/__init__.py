"""What a recipe's ``train.py`` calls: pre-training in rounds, fine-tuning, experiments.

``recipe`` reads the command line (``overrides``) and the YAML (``yaml_files``), and saves
a description of the ``environment``. ``pretraining``, in ``rounds``, and ``finetuning``
run what the YAML describes. ``recipe_run`` adds logs, checkpoints and the response to
signals to their Brains. ``experiment`` runs both for many models, and ``report`` makes
the tables.
"""

__all__ = [
    "environment",
    "experiment",
    "finetuning",
    "overrides",
    "pretraining",
    "recipe",
    "recipe_run",
    "report",
    "rounds",
    "yaml_files",
]
