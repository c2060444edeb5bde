"""The results room: the folder of a run, the schema of its summary, reading and printing it, and the content cache.

A folder with the name that the user asked for is always a complete run; docs/results.md says what lies in it.
"""

from fedunlearn.results.cache import ContentCache, Entry, content_key
from fedunlearn.results.environment import versions
from fedunlearn.results.metrics import MetricRow, node_scope, read_metrics
from fedunlearn.results.reading import Run, read_ledger, read_run, read_summary
from fedunlearn.results.run_directory import RunDirectory
from fedunlearn.results.run_names import is_run
from fedunlearn.results.schema import check_summary
from fedunlearn.results.table import summary_table

__all__ = [
    "ContentCache",
    "Entry",
    "MetricRow",
    "Run",
    "RunDirectory",
    "check_summary",
    "content_key",
    "is_run",
    "node_scope",
    "read_ledger",
    "read_metrics",
    "read_run",
    "read_summary",
    "summary_table",
    "versions",
]
