"""Tasks: one module each for how an item is put and judged, and the sources that items come from."""

from glassbox.tasks.pools import Drawn
from glassbox.tasks.sample import (
    Sample,
    assign,
    extract_number,
    is_correct_generation,
    make_sample,
    metric_name,
)
from glassbox.tasks.sources import load_samples
from glassbox.tasks.splits import read_split, tasks_digest, write_splits

__all__ = [
    "Drawn",
    "Sample",
    "assign",
    "extract_number",
    "is_correct_generation",
    "load_samples",
    "make_sample",
    "metric_name",
    "read_split",
    "tasks_digest",
    "write_splits",
]
