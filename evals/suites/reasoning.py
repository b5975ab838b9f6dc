"""GSM8K and SVAMP: word problems with a number as the answer."""

from .base import Task, in_data

TASK = Task("reasoning", "word problems of GSM8K and SVAMP", in_data("qa_reasoning_dev.parquet"))
