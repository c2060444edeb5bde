"""Settings of the requests room: what a deletion request says, and the policy by which it is answered or refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedunlearn.settings import Settings

Action = Literal["refuse", "stop"]
"""What happens to a request that breaks a rule: it is recorded as refused and the run goes on, or the run stops."""


class RequestSettings(Settings):
    """One deletion request: some samples of a client, a class everywhere, or a whole client, who leaves."""

    level: Literal["sample", "class", "client"]
    client: int | None = Field(default=None, ge=0, description="client whose samples are to go (sample, client level)")
    samples: tuple[int, ...] | None = Field(default=None, description="positions among the client's training samples")
    count: int | None = Field(default=None, ge=1, description="sample level: this many samples, drawn by the seed")
    label: str | int | None = Field(default=None, description="class level: class name, or its number")
    by: Annotated[int, Field(ge=0)] | Literal["operator"] | None = Field(
        default=None, description="client who asks, or 'operator'; default: the owner, and the operator for a class"
    )
    at: float = Field(default=0.0, ge=0, description="day on which the request arrives, counted from a public day 0")

    @field_validator("samples")
    @classmethod
    def _not_empty(cls, samples: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if samples == ():
            raise ValueError("must name at least one sample")
        return samples

    @model_validator(mode="after")
    def _complete(self) -> RequestSettings:
        if self.level in ("sample", "client") and self.client is None:
            raise ValueError(f"a request of level '{self.level}' needs the key 'client'")
        if self.level == "sample" and (self.samples is None) == (self.count is None):
            raise ValueError("a request of level 'sample' needs exactly one of the keys 'samples' and 'count'")
        if self.level == "class" and self.label is None:
            raise ValueError("a request of level 'class' needs the key 'label'")
        known = {"sample": ("client", "samples", "count"), "class": ("label",), "client": ("client",)}[self.level]
        for key in ("client", "samples", "count", "label"):
            if key not in known and getattr(self, key) is not None:
                raise ValueError(f"a request of level '{self.level}' has no key '{key}' (allowed: {', '.join(known)})")
        return self

    @property
    def asker(self) -> int | None:
        """The client who asks; None is the operator."""
        return self.client if self.by is None else None if self.by == "operator" else self.by


class RequestPolicy(Settings):
    """Which requests are answered, and which are answered together (docs/requests.md).

    Every rule looks at ids, counts, days and the graph only, never at what is in a sample or at a model. A rule that a
    request breaks says ``refuse`` (it is recorded, and the run goes on) or ``stop`` (the run ends before training). The
    rules are asked in the order of the keys below.
    """

    ownership: Literal["off", "refuse", "stop"] = Field(
        default="stop", description="a client asks for what is not its own: another client's samples, or a class"
    )
    unknown: Action = Field(default="stop", description="a client, class or sample that does not exist")
    duplicates: Literal["ignore", "refuse", "stop"] = Field(
        default="stop", description="samples that are deleted already; ignore: answer for the others"
    )
    emptied: Literal["answer", "refuse", "stop"] = Field(
        default="answer", description="a sample or class request leaves a client without samples, so that it leaves"
    )
    broken: Action = Field(
        default="stop", description="nobody would have data left, or the graph would fall into parts"
    )
    max_requests: int | None = Field(default=None, ge=1, description="requests of one client that are answered")
    min_interval: float = Field(default=0.0, ge=0, description="days between two answered requests of one client")
    excessive: Action = Field(default="refuse", description="more requests than max_requests and min_interval allow")
    max_share: float | None = Field(
        default=None, gt=0, le=1, description="share of all training samples that may be deleted before a retraining"
    )
    exhausted: Action = Field(default="stop", description="a request would go beyond max_share")
    window: float = Field(
        default=0.0,
        ge=0,
        description="days; requests that arrive in the same window are answered as one; 0: one by one",
    )
