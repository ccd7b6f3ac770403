"""What a recipe's ``train.py`` calls: pre-training in rounds, fine-tuning, experiments.

``recipe`` reads the command line (``overrides``, ``key_names``) and the YAML
(``yaml_files``), refuses ``wrong_values`` and what contradicts an ``earlier_run``, and
saves a description of the ``environment``; ``undo`` takes back what a refused start has
changed, and ``usage`` answers ``--help``.
``pretraining``, of ``phases`` in ``rounds``, and ``finetuning`` run what the YAML
describes, after a ``look_ahead`` at what that means for the data, with ``doubts`` about
its settings and ``sampled_headers`` of its files. ``recipe_run`` adds logs, checkpoints
and the response to signals to their Brains, with a ``loss_watch``; the ``console`` shows
what people read, and ``closing`` says what is next. ``new_recipe`` makes a recipe for
another corpus. ``experiment`` runs both for many models, after ``experiment_checks``,
shows where they are (``live``), what they have ``learnt`` and what one of them hears
(``listening``); ``report`` makes the ``tables``, ``comparison`` those of any fine-tuned
models, and ``curves`` plots logs. ``export`` writes model folders, with a
``description`` and a ``model_card``, from what a ``run_record`` notes; ``pretrained``
has a recipe take its architecture from one, and ``extraction`` writes what it makes of
recordings.
"""

__all__ = [
    "closing",
    "comparison",
    "console",
    "curves",
    "description",
    "doubts",
    "earlier_run",
    "environment",
    "experiment",
    "experiment_checks",
    "export",
    "extraction",
    "finetuning",
    "key_names",
    "learnt",
    "listening",
    "live",
    "look_ahead",
    "loss_watch",
    "model_card",
    "new_recipe",
    "overrides",
    "phases",
    "pretrained",
    "pretraining",
    "recipe",
    "recipe_run",
    "report",
    "rounds",
    "run_record",
    "sampled_headers",
    "tables",
    "undo",
    "usage",
    "wrong_values",
    "yaml_files",
]
