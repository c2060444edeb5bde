"""Settings of a deletion request."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedunlearn.settings import Settings


class RequestSettings(Settings):
    """One deletion request: some samples of a client, a class everywhere, or a whole client, who leaves."""

    level: Literal["sample", "class", "client"]
    client: int | None = Field(default=None, ge=0, description="number of the node that asks (sample and client level)")
    samples: tuple[int, ...] | None = Field(default=None, description="positions among the client's training samples")
    count: int | None = Field(default=None, ge=1, description="sample level: this many samples, drawn by the seed")
    label: str | int | None = Field(default=None, description="class level: class name, or its number")

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
