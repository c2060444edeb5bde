"""Deletion requests: who asks for what, what is refused, and what goes, in the order in which it is answered."""

from fedunlearn.requests.decisions import Decisions, DeletionRequest, Refusal
from fedunlearn.requests.resolve import decide_requests, resolve_requests
from fedunlearn.requests.settings import RequestPolicy, RequestSettings

__all__ = [
    "Decisions",
    "DeletionRequest",
    "Refusal",
    "RequestPolicy",
    "RequestSettings",
    "decide_requests",
    "resolve_requests",
]
