"""Settings of an audit."""

from __future__ import annotations

from pydantic import Field

from fedunlearn.settings import Settings


class AuditSettings(Settings):
    """How often the worlds are played, and from which draws."""

    trials: int = Field(default=1000, ge=20, description="draws of each world; one half chooses the test, one counts")
    seed: int | None = Field(default=None, description="of the auditor's own draws; default: the experiment's seed")
