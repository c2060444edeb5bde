"""What those who heard the messages of one answer can learn, as far as the certificates of that answer say it.

Every message that was received while a request was answered has a kind, and a kind is covered by a certificate or by
none. Certificates speak about messages in their entry ``view``: T-V0 and T-V2 cover all of them and they add nothing,
T-V1 covers all of them with one Gaussian number, T8 and ``transcript`` cover tokens and what was released from them.
With ``none`` the release alone is covered. A view with a message that no certificate covers has no certificate. Nothing
is concluded from a certificate that is not valid, except T-V0 and T-V2, which do not rest on its premises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedunlearn.errors import listed
from fedunlearn.privacy.accounting.events import Event, GaussianRelease, PostProcessing
from fedunlearn.privacy.accounting.views import Record, Rule, view_of
from fedunlearn.privacy.certificate import Certificate

ADDS_NOTHING = ("T-V0", "T-V2")
NO_CERTIFICATE = "no certificate"
_DELTA = 1e-5
"""Stands in where no certificate names one: a view without events has epsilon 0 at every delta."""


@dataclass(frozen=True)
class Answered:
    """One answered request as a run directory tells it.

    Attributes:
        asker: the node whose data were deleted; None for a class, of which many nodes may have held samples.
        certificates: of this answer, with their numbers in ``certificate.json``.
        reason: why there is no certificate, as the method put it.
        noise_makers: nodes that drew the noise of a walk and so know it.
        retrained: the answer is retraining from a public start, by definition of the method.
    """

    asker: int | None
    certificates: Mapping[int, Certificate]
    reason: str = ""
    noise_makers: frozenset[int] = frozenset()
    retrained: bool = False

    @property
    def delta(self) -> float | None:
        """The delta of the claims, None where nothing was certified."""
        return next((certificate.delta for certificate in self.certificates.values()), None)


@dataclass(frozen=True)
class Cover:
    """What covers the messages of one kind.

    Attributes:
        by: a statement of docs/certificates.md, ``transcript``, ``release``, or ``no certificate``.
        number: of the certificate, None where there is none.
        mu: what all messages covered by that certificate are worth together; 0 where they add nothing, None where no
            Gaussian number stands behind the certificate or nothing is covered.
        reason: one sentence, that of the certificate where it has one.
    """

    by: str
    number: int | None
    mu: float | None
    reason: str

    @property
    def covered(self) -> bool:
        """Whether a certificate speaks about messages of this kind."""
        return self.by != NO_CERTIFICATE


@dataclass(frozen=True)
class Seen:
    """What a set of observers received while one request was answered, and what follows.

    Attributes:
        observers: node ids; more than one where they collude.
        messages, size: all messages received, and their bytes.
        kinds: messages received of each kind.
        epsilon: of the view, given all that the observers knew before the request; None where nothing is certified.
        by: in a word or two what decided.
        reason: one sentence on why.
    """

    observers: tuple[int, ...]
    messages: int
    size: int
    kinds: Mapping[str, int]
    epsilon: float | None
    by: str
    reason: str


def cover_of(kind: str, answered: Answered) -> Cover:
    """Return what covers the messages of a kind that were sent while a request was answered."""
    found = answered.certificates
    for number, certificate in found.items():
        if certificate.view in ADDS_NOTHING:
            return Cover(certificate.view, number, 0.0, certificate.view_reason)
    if answered.retrained:
        return Cover("T-V0", None, 0.0, "The answer is retraining: (0, 0) for every observer.")
    for number, certificate in found.items():
        if _speaks_of(certificate, kind):
            if certificate.valid:
                by = "release" if certificate.view == "none" else certificate.view
                reason = certificate.claim if by == "release" else certificate.view_reason
                return Cover(by, number, certificate.mu, reason)
            return Cover(NO_CERTIFICATE, number, None, _not_valid(number, certificate))
    for number, certificate in found.items():
        if certificate.view == "none":
            return Cover(NO_CERTIFICATE, number, None, certificate.view_reason)
        return Cover(
            NO_CERTIFICATE, number, None, "The claim is about the tokens and what was released from them alone."
        )
    return Cover(
        NO_CERTIFICATE, None, None, f"The answer has no certificate: {answered.reason.removeprefix('none: ')}."
    )


def seen_by(
    received: Mapping[int, Iterable[Record]], answered: Answered, *, knew_the_release: Iterable[int] = ()
) -> Seen:
    """Return what observers who pool all they received can learn from one answer.

    Args:
        received: the records of :meth:`fedunlearn.network.ledger.Ledger.received_by` of each observer, those of the
            answer alone.
        answered: the answer.
        knew_the_release: nodes that had the last release before the request; T-V2 speaks about them.
    """
    heard = {node: list(records) for node, records in received.items()}
    observers = tuple(sorted(heard))
    kinds: dict[str, int] = {}
    size = 0
    for record in (record for records in heard.values() for record in records):
        count = len(record["senders"]) * record["repeats"]
        kinds[record["kind"]] = kinds.get(record["kind"], 0) + count
        size += count * record["message_bytes"]
    epsilon, by, reason = _conclusion(heard, kinds, answered, set(knew_the_release))
    return Seen(observers, sum(kinds.values()), size, kinds, epsilon, by, reason)


def _conclusion(
    heard: Mapping[int, list[Record]], kinds: Mapping[str, int], answered: Answered, knew: set[int]
) -> tuple[float | None, str, str]:
    """Return epsilon of the view, what decided, and why."""
    if not kinds:
        return 0.0, "nothing heard", "Who receives no message learns nothing from an answer."
    if answered.asker in heard:
        return None, "own data", "Who held the deleted data knows them: no claim is made about what it may learn."
    covers = {kind: cover_of(kind, answered) for kind in kinds}
    bare: dict[str, list[str]] = {}
    for kind, cover in covers.items():
        if not cover.covered:
            bare.setdefault(cover.reason, []).append(kind)
    if bare:
        reason, without = next(iter(bare.items()))
        return None, NO_CERTIFICATE, f"It holds messages of kind {listed(without)}. {reason}"
    by = listed(dict.fromkeys(cover.by for cover in covers.values()))
    reason = " ".join(dict.fromkeys(cover.reason for cover in covers.values()))
    if by == "T-V2" and not set(heard) <= knew:
        return None, NO_CERTIFICATE, "T-V2 is about those who had the last release, and not all of these had it."
    noisy = {number: cover.mu for cover in covers.values() if cover.mu != 0 and (number := cover.number) is not None}
    if noisy and answered.noise_makers & set(heard):
        return None, "own noise", "Who drew the noise can subtract it: no claim is made about what it may learn."
    if None in noisy.values():
        if len(noisy) > 1:
            return None, NO_CERTIFICATE, "Certificates without a Gaussian number cannot be composed with others."
        return answered.certificates[next(iter(noisy))].epsilon, by, reason
    # All that one certificate covers is worth its number once, however many messages and kinds it came in.
    family = {kind: f"certificate {cover.number}" for kind, cover in covers.items()}
    rules: dict[str, Rule | Event] = {
        family[kind]: Rule(GaussianRelease(cover.mu, 1.0) if cover.mu else PostProcessing(cover.reason), "once")
        for kind, cover in covers.items()
    }
    renamed = {node: [{**r, "kind": family[r["kind"]]} for r in records] for node, records in heard.items()}
    return view_of(renamed, rules, answered.delta or _DELTA, second=False).epsilon, by, reason


def _speaks_of(certificate: Certificate, kind: str) -> bool:
    """Return whether the claim of a certificate is about messages of a kind; T-V0 and T-V2 are not asked here."""
    if certificate.kind == "message":
        return True
    if certificate.view in ("T8", "transcript"):
        return kind in ("token", "release")
    return kind == "release" and certificate.kind in ("retrain-equivalence", "certifier", "exact")


def _not_valid(number: int, certificate: Certificate) -> str:
    missing = [premise for premise in certificate.premises if premise.status != "enforced"]
    if not missing:
        return f"Certificate {number} names no premise, so it is not valid."
    first = missing[0]
    return f"Certificate {number} is not valid: premise '{first.name}' is {first.status} ({first.detail})."
