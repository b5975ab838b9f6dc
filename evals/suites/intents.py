"""Intents of CLINC150, Banking77 and SNIPS: one label of 7 to 151."""

from .base import Task, in_data

TASK = Task(
    "intents",
    "intents of CLINC150, Banking77 and SNIPS",
    in_data("classification_intent_dev.parquet"),
    max_tokens=48,
)
