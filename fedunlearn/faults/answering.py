"""When a request is answered on a network whose nodes come and go: requests of nodes that are away, and who answers.

A request is resolved before training, and is asked for by a node, by several where requests of one window are answered
together, or by the operator. The rounds that pass until it is answered are rounds of the trace without training: nodes
come, go and adopt, and no model is trained or mixed.

- ``offline_requests = "wait"``: nodes tell the network of their requests themselves, so the answer begins in the first
  round by which each of them was among the participants; the operator is never waited for. If that does not happen
  within ``wait_limit`` rounds, the answer begins in the last of them in which it could.
- ``offline_requests = "answer"``: the request came another way, and is answered by who is there. A node that is away
  erases what it was to erase before anything else when it is back; its model it overwrites by adopting.

In both cases an answer needs somebody to give it, other than those who leave with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedunlearn.errors import UserError
from fedunlearn.faults.course import Course, Round, State


def rounds_until_answer(course: Course, where: str, askers: Sequence[int], leaves: Sequence[int] = ()) -> list[Round]:
    """Step a course until a request can be answered, and return the rounds: all but the last were waited for.

    ``askers`` are the nodes that ask; those that have left for good, of whose requests others know, are not waited for.
    ``leaves`` are those who leave with the answer. Raises UserError, which begins with ``where``, if nobody is there to
    answer within ``wait_limit`` rounds.
    """
    settings = course.trace.settings
    unheard = {asker for asker in askers if course.alive[asker]} if settings.offline_requests == "wait" else set()
    rounds: list[Round] = []
    latest: tuple[int, State] | None = None
    while len(rounds) <= settings.wait_limit:
        rounds.append(course.step(mixes=False))
        there = rounds[-1].participants()
        others = there.copy()
        others[list(leaves)] = False
        if others.any():
            latest = len(rounds), course.state
            unheard -= set(np.flatnonzero(there).tolist())
            if not unheard:
                break
    if latest is None:
        raise UserError(
            f"{where}: in rounds {rounds[0].number} to {rounds[-1].number} there is no node that could answer; "
            "set faults.wait_limit higher, or let nodes return"
        )
    count, course.state = latest
    return rounds[:count]
