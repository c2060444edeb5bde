"""The auditor: attacks the claims of a certificate on pairs of worlds, with exact bounds on chance.

Two worlds, unlearned and retrained, are drawn many times. A refutation is at most 5 % likely where the claim is true;
no refutation shows little where the worlds lie much closer together than the claim allows, and the verdict says so.
"""

from fedunlearn.audit.attacks import audit_game
from fedunlearn.audit.verdict import Scores, Verdict
from fedunlearn.audit.views import joint_game, message_game
from fedunlearn.audit.whitebox import NoiseLaw, distance_holds, noise_law, pair_epsilon

__all__ = [
    "NoiseLaw",
    "Scores",
    "Verdict",
    "audit_game",
    "distance_holds",
    "joint_game",
    "message_game",
    "noise_law",
    "pair_epsilon",
]
