"""MMLU, ARC, OpenBookQA and CommonsenseQA (a letter), and NQ-open (a short answer)."""

from .base import Task, in_data

TASK = Task(
    "knowledge",
    "exam and open questions: MMLU, ARC, OpenBookQA, CommonsenseQA, NQ-open",
    in_data("qa_knowledge_dev.parquet"),
    max_tokens=64,
)
