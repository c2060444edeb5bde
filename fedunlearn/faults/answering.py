"""When a request is answered on a network whose nodes come and go: requests of nodes that are away, and who answers.

A request is resolved before training and belongs to a node, or to nobody (a class). The rounds that pass until it is
answered are rounds of the trace without training: nodes come, go and adopt, and no model is trained or mixed.

- ``offline_requests = "wait"``: a node tells the network of its request itself, so the answer begins in the first round
  in which it is among the participants, and after ``wait_limit`` rounds without it.
- ``offline_requests = "answer"``: the request came another way, and is answered at once by who is there. A node that is
  away erases what it was to erase before anything else when it is back; its model it overwrites by adopting.

In both cases an answer needs somebody to give it, other than those who leave with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedunlearn.errors import UserError
from fedunlearn.faults.course import Course, Round


def rounds_until_answer(course: Course, request: int, asker: int | None, leaves: Sequence[int] = ()) -> list[Round]:
    """Step a course until a request can be answered, and return the rounds: all but the last were waited for.

    ``asker`` is the node whose data are deleted, None for a class; ``leaves`` are those who leave with the answer.
    Raises UserError, with the number of the request, if nobody is there to answer within ``wait_limit`` rounds.
    """
    settings = course.trace.settings
    waits = settings.offline_requests == "wait" and asker is not None

    def answerable(round_: Round) -> bool:
        others = round_.participants()
        others[list(leaves)] = False
        return bool(others.any())

    def ready(round_: Round) -> bool:
        return answerable(round_) and (not waits or bool(round_.participants()[asker]))

    rounds = course.wait(ready, settings.wait_limit)
    if not answerable(rounds[-1]):
        raise UserError(
            f"requests.{request}: in rounds {rounds[0].number} to {rounds[-1].number} there is no node that could "
            "answer; set faults.wait_limit higher, or let nodes return"
        )
    return rounds
