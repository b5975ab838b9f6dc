"""IFEval: are all of a prompt's verifiable instructions followed, to the letter?"""

from .base import Task, in_data

TASK = Task(
    "ifeval",
    "IFEval: instructions followed to the letter",
    in_data("chat_ifeval_dev.parquet"),
    max_tokens=1280,
)
