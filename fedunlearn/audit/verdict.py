"""What an audit of one claim on one pair of worlds came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["refuted", "not refuted", "no power"]
Deciding = Literal["trade-off", "epsilon-delta"]


@dataclass(frozen=True)
class Scores:
    """Scores of the test half, for figures: larger means that world 0 (unlearned) is more likely.

    Attributes:
        unlearned, retrained: (n,) each.
        threshold: where the choosing half put the threshold of the deciding test.
        above: whether the event of the deciding test is ``score > threshold`` (else ``score <= threshold``).
        name: how the score was made.
    """

    unlearned: NDArray[np.float64]
    retrained: NDArray[np.float64]
    threshold: float
    above: bool
    name: str


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim, with the numbers behind it.

    One test decides, named beforehand: the trade-off test where the claim is a Gaussian trade-off curve, else the
    (epsilon, delta) test. Its false alarm is at most ``1 - confidence``. The other sampled bounds stand beside it and
    decide nothing. The comparison of the noise-free distance with its claimed bound has no sampling error, so it may
    refute as well without adding false alarms.

    Attributes:
        method: of unlearning.
        game: name of the pair of worlds.
        kind: ``tight`` or ``natural``.
        trials: draws per world; one half chose score, threshold and direction, the other half was counted.
        confidence: of every lower bound, 0.95.
        decides: the test that decides.
        epsilon, delta, mu: the claim; ``mu`` is None where no Gaussian curve is claimed.
        epsilon_lower: lower bound on epsilon at the claimed delta from the (epsilon, delta) test (A1).
        mu_lower: lower bound on mu from the trade-off test (A2); minus infinity is given as 0.
        mu_parametric: lower bound on mu that trusts the known Gaussian noise (A3); None where it is not known.
        refuted_by: the tests that refute: the deciding one, or ``distance``.
        distance, sensitivity: of the noise-free vectors, and its claimed bound, where known.
        pair_mu, pair_epsilon: exact privacy numbers of this very pair under the claimed noise (A4), where known.
        largest_refutable: no claim of a larger epsilon can be refuted with so many trials, however wrong it is.
        detectable_mu, smallest_refutable: the smallest true mu, and its epsilon at the claimed delta, of a Gaussian
            curve that would refute this claim in 9 of 10 such audits; infinite where none would.
        fault_needed: by what factor the noise would have to fall short for 9 of 10 such audits of this pair to notice.
            None where distance or noise is not known.
        has_power: whether that factor is at most :data:`fedunlearn.audit.planning.LARGEST_FAULT`.
        scores: of the test half.
    """

    method: str
    game: str
    kind: Literal["tight", "natural"]
    trials: int
    confidence: float
    decides: Deciding
    epsilon: float
    delta: float
    mu: float | None
    epsilon_lower: float
    mu_lower: float
    mu_parametric: float | None
    refuted_by: tuple[str, ...]
    distance: float | None
    sensitivity: float | None
    pair_mu: float | None
    pair_epsilon: float | None
    largest_refutable: float
    detectable_mu: float
    smallest_refutable: float
    fault_needed: float | None
    has_power: bool
    scores: Scores | None = field(default=None, repr=False, compare=False)

    @property
    def refuted(self) -> bool:
        """Whether the claim is refuted."""
        return bool(self.refuted_by)

    @property
    def outcome(self) -> Outcome:
        """``refuted``; ``no power`` where even a gross fault would have gone unnoticed; else ``not refuted``."""
        if self.refuted:
            return "refuted"
        return "not refuted" if self.has_power else "no power"

    @property
    def ratio(self) -> float | None:
        """Distance of the noise-free vectors over its claimed bound."""
        if self.distance is None or not self.sensitivity:
            return None
        return self.distance / self.sensitivity

    def power(self) -> str:
        """Return one sentence on what this audit could have noticed."""
        near = "" if self.ratio is None else f"the worlds lie {self.ratio:.2g} of the claimed bound apart; "
        if not np.isfinite(self.detectable_mu):
            claim = f"epsilon = {self.epsilon:g}" if self.mu is None else f"mu = {self.mu:.4g}"
            return f"{near}no power here: {self.trials} trials a world cannot refute {claim}, however wrong it is"
        if self.fault_needed is None:
            return f"{near}a true epsilon of {self.smallest_refutable:.3g} would be noticed in 9 of 10 such audits"
        if not np.isfinite(self.fault_needed):
            return f"{near}no power here: the two worlds are one"
        fault = f"noise {self.fault_needed:.3g} times too small would be noticed in 9 of 10 such audits"
        return f"{near}{fault}" if self.has_power else f"{near}no power here: only {fault}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values without the scores; an infinite number is given as None."""
        names = [name for name in self.__dataclass_fields__ if name != "scores"]
        plain = {name: _plain(getattr(self, name)) for name in names}
        return {**plain, "ratio": self.ratio, "outcome": self.outcome, "power": self.power()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
