"""The door of a host: every request of a message is checked before any of them is carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedunlearn.errors import UserError
from fedunlearn.network.block import Block
from fedunlearn.network.borders import Beside, nobody_beside
from fedunlearn.network.messages.kinds import Refused
from fedunlearn.network.messages.program_rules import ProgramRules
from fedunlearn.network.messages.state_rules import StateRules
from fedunlearn.network.transport import Request


class Door(StateRules, ProgramRules):
    """Checks the requests of one message to a host, in their order; each as if those before it were carried out."""

    def check(self, request: Request) -> None:
        """Raise UserError, one sentence, if a request is not one that a host may be sent."""
        try:
            rule = RULES.get(request.op) if isinstance(request.op, str) else None
            if rule is None:
                raise UserError(f"a host was asked for the unknown operation '{str(request.op)[:60]}'")
            rule(self, request.params, request.arrays)
        except Refused as error:
            raise UserError(f"a host was sent a malformed '{request.op}': {error}") from None


RULES: dict[str, Callable[[Door, Any, Mapping[str, np.ndarray]], None]] = {
    "population": Door._population, "topology": Door._topology, "rounds": Door._rounds, "rows": Door._rows,
    "sum": Door._sum, "measure": Door._measure, "walk": Door._walk, "checkpoint": Door._checkpoint,
    "rewind": Door._rewind, "mix": Door._mix, "export": Door._read, "border": Door._border,
    "read": Door._read, "write": Door._write,
    "save": Door._save, "restore": Door._restore, "put": Door._put_arrays, "copy": Door._copy,
    "adopt": Door._adopt, "forget": Door._of_population,
    "leave": Door._leave, "erase": Door._erase, "wipe": Door._nothing, "drop": Door._drop, "close": Door._nothing,
}  # fmt: skip


def check_requests(block: Block, request: Request, beside: Beside = nobody_beside) -> None:
    """Check a request, and those that come before it in its message, before any of them is carried out.

    Raises:
        UserError: one sentence, for the first that is not what a host may be sent.
    """
    door = Door(block, beside)
    for each in request.before:
        if each.before:
            raise UserError(f"a host was sent a malformed '{each.op}': requests do not stand within each other")
        door.check(each)
    door.check(request)
