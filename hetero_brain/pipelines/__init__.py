"""What a recipe's ``train.py`` calls: pre-training in rounds, fine-tuning, experiments.

``recipe`` reads the command line and the YAML, ``pretraining`` and ``finetuning`` run
what they describe, ``experiment`` runs both for many models, ``report`` makes the tables.
"""
