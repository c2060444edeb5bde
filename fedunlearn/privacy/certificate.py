"""A certificate: one claim about one release, with the premises it rests on.

A certificate is a claim that carries its own proof obligations. It is *valid* only when every premise of the theorem it
names was enforced by the code that ran; a value merely seen in the run is *measured*, and anything else is *assumed*.
Scope lines are different: they describe the threat model, which no code can enforce, and stand beside every epsilon.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedunlearn.errors import UserError
from fedunlearn.privacy import gaussian

Status = Literal["enforced", "measured", "assumed"]
Noise = Literal["simulated", "secret"]
Kind = Literal[
    "retrain-equivalence", "certifier", "single-node", "transcript", "message", "differential-privacy", "exact"
]
"""What the release is compared with, from strong to weak for one who asks "as if it had never been there?".

``exact``: the same law as retraining. ``retrain-equivalence``: what retraining would release. ``certifier``: what a
procedure that never saw the deleted data would release. ``single-node``: either of these, for one node's model alone.
``differential-privacy``: every release of training, whoever is deleted later. ``transcript`` and ``message``: only
what the messages of the answer add to what was known before; they say nothing about the trained model itself.
"""


class NoCertificate(Exception):
    """Nothing can be certified about a release; the message is the one-sentence reason."""


@dataclass(frozen=True)
class Premise:
    """One condition of the theorem, how this run met it, and a sentence of detail."""

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Certificate:
    """An (epsilon, delta) claim about one release after one deletion request.

    Attributes:
        method: the unlearning method that answered the request.
        kind: what the release is compared with, one word of :data:`Kind`.
        granularity: what was deleted: ``sample``, ``class`` or ``client``.
        epsilon, delta: the claim, dimensionless; also true at every other point of :meth:`curve`.
        mu: the privacy number of everything this certificate covers, dimensionless; None where the claim is about the
            one pair (epsilon, delta) and no Gaussian profile stands behind it.
        sigma: standard deviation of the noise on each parameter, in units of the parameters; for the kind
            ``differential-privacy`` of the noise in one step of training, in units of what is noised there.
        sensitivity: largest L2 distance between the two noise-free vectors, in the units of ``sigma``.
        theorem: the statement that is invoked.
        claim: what the release is compared with, in one sentence.
        scope: the threat model, one line each, the observers first.
        view: what holds for those who watch the messages of unlearning: the name of a statement of
            docs/certificates.md, ``transcript``, or ``none``.
        view_reason: one sentence on why.
        premises: conditions of the theorem and how they were met.
        constants: the numbers that enter the theorem.
        noise: where the noise came from.
        hashes: SHA-256 of what the claim is about. A key with a file suffix is a file path relative to the certificate.
        limits: what this certificate, or any other of its kind, does not cover.
        facts: what the run reported, from which :func:`fedunlearn.privacy.verify` rebuilds the certificate.
    """

    method: str
    kind: Kind
    granularity: str
    epsilon: float
    delta: float
    mu: float | None
    sigma: float
    sensitivity: float
    theorem: str
    claim: str
    scope: tuple[str, ...]
    view: str
    view_reason: str
    premises: tuple[Premise, ...]
    constants: dict[str, float]
    noise: Noise
    hashes: dict[str, str]
    limits: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def valid(self) -> bool:
        """Whether there are premises and every one of them was enforced."""
        return all_enforced([premise.status for premise in self.premises])

    def curve(
        self, *, epsilons: Iterable[float] | None = None, deltas: Iterable[float] | None = None
    ) -> list[tuple[float, float]]:
        """Return (epsilon, delta) points that hold under the same premises; by default around the claimed epsilon."""
        if self.mu is None:
            return [(self.epsilon, self.delta)]
        if epsilons is None and deltas is None:
            epsilons = [self.epsilon * 2 ** (step / 8) for step in range(-32, 17)]
        return gaussian.curve(self.mu, epsilons=epsilons, deltas=deltas)

    @property
    def worth(self) -> str:
        """What the claim is worth, in one sentence: how often the best observer guesses the world right."""
        return worth_of(self.epsilon, self.delta, self.mu)

    def with_hashes(self, hashes: Mapping[str, str]) -> Certificate:
        """Return the certificate with further hashes, for files that are written after it was issued."""
        return dataclasses.replace(self, hashes={**self.hashes, **hashes})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the ``valid`` flag and a digest of all other entries."""
        plain = dataclasses.asdict(self)
        for key in ("scope", "limits", "premises"):
            plain[key] = list(plain[key])
        plain["valid"] = self.valid
        plain["worth"] = self.worth
        plain["sha256"] = digest(plain)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Certificate:
        """Return the certificate written by :meth:`to_dict`; ``valid`` and the digest are recomputed, not believed.

        Raises:
            UserError: if an entry is missing, unknown or of the wrong kind.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in plain]:
            raise UserError(f"the certificate has no entry '{missing[0]}', which every certificate must have")
        if unknown := sorted(set(plain) - set(names) - {"valid", "worth", "sha256"}):
            raise UserError(f"the certificate has an entry '{unknown[0]}', which no certificate may have")
        values = {name: plain[name] for name in names}
        for name in ("epsilon", "delta", "mu", "sigma", "sensitivity"):
            if name != "mu" or values[name] is not None:
                values[name] = _number(name, values[name])
        for name in ("method", "granularity", "theorem", "claim", "view", "view_reason"):
            _expect(isinstance(values[name], str), name, values[name], "a text")
        _expect(values["kind"] in get_args(Kind), "kind", values["kind"], f"one of {', '.join(get_args(Kind))}")
        _expect(values["noise"] in get_args(Noise), "noise", values["noise"], "'simulated' or 'secret'")
        for name in ("scope", "limits"):
            _expect(_is_texts(values[name]), name, values[name], "a list of texts")
            values[name] = tuple(values[name])
        for name in ("constants", "hashes", "facts"):
            _expect(isinstance(values[name], dict), name, values[name], "a table")
        values["constants"] = {key: _number(f"constants.{key}", value) for key, value in values["constants"].items()}
        _expect(_is_texts(list(values["hashes"].values())), "hashes", values["hashes"], "a table of texts")
        _expect(isinstance(values["premises"], (list, tuple)), "premises", values["premises"], "a list of premises")
        values["premises"] = tuple(_premise(entry) for entry in values["premises"])
        return cls(**values)

    def text(self) -> str:
        """Return the certificate as text for people, with premises, scope, view and limits."""
        verdict = "VALID: every premise was enforced" if self.valid else "NOT VALID: some premises were not enforced"
        where = "in every step of training" if self.kind == "differential-privacy" else "on every parameter"
        lines = [
            f"{self.granularity.capitalize()}-level deletion by {self.method}: {verdict}",
            "",
            *_wrapped(
                f"epsilon = {self.epsilon:g}, delta = {self.delta:g} "
                f"({'' if self.mu is None else f'mu = {self.mu:.6g}; '}sigma = {self.sigma:.6g} "
                f"{where}, sensitivity {self.sensitivity:.6g}; {self.noise} noise)"
            ),
            *_wrapped(f"{self.kind}: {self.worth}"),
            *_wrapped(self.claim),
            *_wrapped(f"Theorem: {self.theorem}"),
            "",
            "Premises",
            *(line for p in self.premises for line in _wrapped(f"{p.name}: {p.detail}", f"  [{p.status}] ")),
            "",
            "Scope (the threat model, which code cannot enforce)",
            *(line for entry in self.scope for line in _wrapped(entry, "  - ")),
            "",
            f"Those who watch the messages: {'no certificate' if self.view == 'none' else self.view}",
            *_wrapped(self.view_reason, "  "),
            "",
            "Not covered",
            *(line for entry in self.limits for line in _wrapped(entry, "  - ")),
        ]
        return "\n".join(lines)


VACUOUS = 0.99
"""From this probability of a right guess on, a certificate is called vacuous."""


def worth_of(epsilon: float, delta: float, mu: float | None = None) -> str:
    """Return one sentence: how often the best observer, who finds both worlds equally likely, guesses right.

    ``(1 + TV)/2`` with total variation ``2 Phi(mu/2) - 1`` where the profile is Gaussian, else the largest one that
    (epsilon, delta) allows, ``1 - 2 (1 - delta)/(1 + e^epsilon)`` (Kairouz, Oh and Viswanath 2015).
    """
    if mu is not None:
        right = (1.0 + gaussian.delta_of(mu, 0.0)) / 2.0
    else:
        right = 1.0 - (1.0 - delta) / (1.0 + math.exp(min(epsilon, 700.0)))
    said = f"the best observer guesses right in {100 * right:.4g} % of the cases, where 50 % is a coin"
    return f"vacuous: {said}" if right >= VACUOUS else said


def junk_start_limit(certificate: Certificate) -> float | None:
    """Return how much a trained start can raise any score in [0, 1] above a junk start, ``2 Phi(mu/2) - 1`` (T6).

    None for claims that do not hide the start: about messages only, or about two runs from the same public start.
    """
    if certificate.kind not in ("retrain-equivalence", "certifier") or certificate.facts.get("rule") == "rewind":
        return None
    if certificate.mu is not None:
        return gaussian.delta_of(certificate.mu, 0.0)
    return 1.0 - 2.0 * (1.0 - certificate.delta) / (1.0 + math.exp(min(certificate.epsilon, 700.0)))


def all_enforced(statuses: Sequence[str]) -> bool:
    """Return whether there is at least one status and all of them are ``enforced``."""
    return bool(statuses) and all(status == "enforced" for status in statuses)


def digest(plain: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a certificate's JSON entries, without the digest itself, in canonical form."""
    body = {key: value for key, value in plain.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _premise(entry: Any) -> Premise:
    if isinstance(entry, dict) and set(entry) == {"name", "status", "detail"}:
        _expect(entry["status"] in get_args(Status), "status", entry["status"], "'enforced', 'measured' or 'assumed'")
        _expect(_is_texts(list(entry.values())), "premises", entry, "a name, a status and a detail")
        return Premise(**entry)
    raise UserError(f"premises has {entry!r}, where a name, a status and a detail are expected")


def _number(name: str, value: Any) -> float:
    _expect(isinstance(value, (int, float)) and not isinstance(value, bool), name, value, "a number")
    return float(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)


def _expect(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise UserError(f"{name} = {value!r} is not allowed in a certificate: it must be {allowed}")


def _wrapped(text: str, bullet: str = "") -> list[str]:
    return textwrap.wrap(text, width=100, initial_indent=bullet, subsequent_indent=" " * len(bullet))
