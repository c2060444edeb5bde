"""Retraining from the initial model on the retained data: exact, and the yardstick of every other method."""

from __future__ import annotations

from fedunlearn.network import Network
from fedunlearn.requests import DeletionRequest
from fedunlearn.settings import Settings
from fedunlearn.unlearning.base import Outcome, Situation, Unlearner
from fedunlearn.unlearning.registry import MethodInfo


class RetrainSettings(Settings):
    """Retraining has no settings: it is the training recipe itself."""


class Retrain(Unlearner):
    """Answers a request by running the training recipe again without the deleted data.

    Start, messages and models are functions of the retained data and of public randomness, so they have the law of a
    network that never saw the deleted data, in every scope and every view (docs/certificates.md T-V0).
    """

    def __init__(self, settings: RetrainSettings) -> None:
        self.settings = settings

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Overwrite every row by the initial model and train."""
        situation.retrain(network)
        return Outcome(
            certificate_reason="none is needed: the answer is retraining itself, (0, 0) in every scope and view",
        )


METHOD = MethodInfo(
    name="retrain",
    summary="train again from the initial model without the deleted data",
    levels=("sample", "class", "client"),
    settings=RetrainSettings,
    implementation=Retrain,
    needs="time",
    certifies="exact by construction",
    under_faults="",
)
