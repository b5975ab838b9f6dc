"""SNIPS: seven everyday intents as functions, with their slots as arguments."""

from .base import Task, read_calls

TASK = Task(
    "snips", "SNIPS: everyday function calls", read_calls("function_call_snips_dev.parquet"), max_tokens=128
)
