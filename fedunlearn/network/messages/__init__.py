"""What a message between the conductor and a host may hold, checked as a whole before anything of it is carried out.

For every operation the tables below say which parameters and arrays it has, of which type, shape and range, and which
floats must be finite. Nothing else may be in a message. A host checks requests at its door (:func:`check_requests`),
the conductor checks replies (:func:`check_reply`); whoever is refused reads one sentence, and no state has changed.

NaN is legitimate in few places: rows of vertices that left are NaN in what ``save`` returns and ``restore`` takes, what
is read or added up after a training diverged is found by whoever asked, and ``measure`` has NaN for absent vertices.
"""

from __future__ import annotations

from fedunlearn.network.messages.kinds import all_finite, fits
from fedunlearn.network.messages.replies import check_reply
from fedunlearn.network.messages.requests import RULES, check_requests
from fedunlearn.network.messages.setup import check_setup

__all__ = ["RULES", "all_finite", "check_reply", "check_requests", "check_setup", "fits"]
