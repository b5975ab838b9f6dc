"""BFCL's single-turn categories: is the function call right?"""

from .base import Task, read_calls

TASK = Task(
    "bfcl",
    "BFCL: single-turn function calls, and requests that no function fits",
    read_calls("function_call_bfcl_dev.parquet"),
    max_tokens=256,
)
