"""Restaurant8k: the slots of a booking as JSON."""

from .base import Task, in_data

TASK = Task(
    "extraction",
    "slots of restaurant bookings as JSON",
    in_data("qa_extraction_dev.parquet"),
    max_tokens=128,
)
