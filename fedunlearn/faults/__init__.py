"""Faults as part of the model: settings compiled to a seeded trace of who is there, which links work, and W_t.

A trace depends on settings, graph and seed alone, so a conductor knows all of it without a message, and the network
that forgets, its retrained twin and any number of hosts run through the same one.
"""

from fedunlearn.faults.answering import rounds_until_answer
from fedunlearn.faults.carried import Carried, influenced
from fedunlearn.faults.check import check_faults
from fedunlearn.faults.course import Course, Round
from fedunlearn.faults.settings import EventSettings, FaultSettings, PartitionSettings, buffer_bytes, buffered_copies
from fedunlearn.faults.summary import TraceSummary, survey
from fedunlearn.faults.trace import Trace

__all__ = [
    "Carried",
    "Course",
    "EventSettings",
    "FaultSettings",
    "PartitionSettings",
    "Round",
    "Trace",
    "TraceSummary",
    "buffer_bytes",
    "buffered_copies",
    "check_faults",
    "influenced",
    "rounds_until_answer",
    "survey",
]
