"""Fine-tuning on the retained data: what a network does when it simply goes on without the deleted data."""

from __future__ import annotations

from pydantic import Field

from fedunlearn.network import Network, train
from fedunlearn.requests import DeletionRequest
from fedunlearn.settings import Settings
from fedunlearn.unlearning.base import Outcome, Situation, Unlearner
from fedunlearn.unlearning.registry import MethodInfo


class FinetuneSettings(Settings):
    """How long, and how fast, training goes on."""

    rounds: int = Field(default=5, ge=1, description="how many more rounds")
    lr: float | None = Field(default=None, gt=0, description="default: training.lr")


class Finetune(Unlearner):
    """Continues the recipe's rounds on the retained data from the trained models. Nothing is certified."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Train for ``rounds`` more rounds; round numbers go on, so that no epoch order is used twice."""
        done = situation.training.rounds + (situation.release - 1) * self.settings.rounds
        more = situation.training.model_copy(
            update={
                "lr": self.settings.lr or situation.training.lr,
                "rounds": done + self.settings.rounds,
                "final_rounds": 0,
            }
        )
        train(network, more, first=done, every=self.settings.rounds)
        return Outcome(
            certificate_reason="none: fine-tuning starts from models that depend on the deleted data and adds no noise",
        )


METHOD = MethodInfo(
    name="finetune",
    summary="go on training on the retained data",
    levels=("sample", "class", "client"),
    settings=FinetuneSettings,
    implementation=Finetune,
    under_faults="",
)
