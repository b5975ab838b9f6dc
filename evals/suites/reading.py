"""BoolQ and Disfl-QA: questions about a passage."""

from .base import Task, in_data

TASK = Task(
    "reading",
    "questions about a passage: BoolQ, Disfl-QA",
    in_data("qa_reading_dev.parquet"),
    max_tokens=64,
)
