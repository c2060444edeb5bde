"""Deletion requests: who asks for what, resolved to sample ids in the order in which they are answered."""

from fedunlearn.requests.resolve import DeletionRequest, resolve_requests
from fedunlearn.requests.settings import RequestSettings

__all__ = ["DeletionRequest", "RequestSettings", "resolve_requests"]
