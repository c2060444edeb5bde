"""An answer of hosts that may still be on its way: what is asked for together travels in one message to each host."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from fedunlearn.network.transport import Reply

T = TypeVar("T")
U = TypeVar("U")


class Answer(Generic[T]):
    """What becomes of the replies of some hosts; :meth:`get` waits for those that are not there.

    ``deliver(hosts)`` sends what waits for these hosts; ``make(replies)`` gets one reply a host, None of the others.
    """

    def __init__(
        self, replies: Sequence[Reply | None], missing: Collection[int], deliver: Callable[[Collection[int]], None],
        make: Callable[[list[Reply | None]], T],
    ) -> None:  # fmt: skip
        self._replies = list(replies)
        self._missing = set(missing)
        self._deliver, self._make = deliver, make
        self._value: list[T] = []

    def take(self, host: int, reply: Reply) -> None:
        """Keep a host's reply."""
        self._replies[host] = reply
        self._missing.discard(host)

    def get(self) -> T:
        """Return what was asked for; messages are sent first if they have not been."""
        if not self._value:
            if self._missing:
                self._deliver(self._missing)
            self._value.append(self._make(self._replies))
            self._replies = []
        return self._value[0]

    def then(self, change: Callable[[T], U]) -> Answer[U]:
        """Return the answer that ``change`` makes of this one."""
        return Answer([], (), self._deliver, lambda _: change(self.get()))
