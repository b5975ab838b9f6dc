"""MTS-Dialog: notes of a doctor's conversation. ROUGE-L of 0.25 is a floor: below it an answer is surely off."""

from .base import Task, in_data

TASK = Task("summaries", "summaries of medical dialogues (a floor)", in_data("qa_summarise_dev.parquet"))
