"""Which certificate covers what an observer received, and what its view is worth."""

from __future__ import annotations

from dataclasses import replace

import example_run
import pytest

from fedunlearn.privacy import Certificate, Premise, epsilon_of
from fedunlearn.privacy.observed import Answered, cover_of, seen_by

RELEASED = example_run.certificate()  # view T-V2
MU = RELEASED.mu


def as_certificate(kind: str, view: str, mu: float | None = 0.5, valid: bool = True, epsilon: float = 2.0):
    premises = (Premise("radius", "enforced" if valid else "assumed", "that is how it was"),)
    return replace(
        RELEASED, kind=kind, view=view, view_reason=f"reason of {view}.", mu=mu, premises=premises, epsilon=epsilon,
        claim=f"claim of {kind}.",
    )  # fmt: skip


def answered(*certificates: Certificate, asker: int | None = 9, noise: tuple[int, ...] = (), first: int = 4, **more):
    return Answered(asker, dict(enumerate(certificates, first)), noise_makers=frozenset(noise), **more)


def heard(**counts: int) -> list[dict]:
    """Return one record for each kind of message, from two senders each time."""
    return [
        {"step": i, "phase": "unlearn", "kind": kind.replace("_", " "), "senders": [7, 8], "repeats": n,
         "message_bytes": 10}
        for i, (kind, n) in enumerate(counts.items())
    ]  # fmt: skip


def test_messages_are_counted_by_kind_and_in_bytes() -> None:
    seen = seen_by({2: heard(gradient=3, release=1), 1: heard(gradient=2)}, answered(RELEASED), knew_the_release=[1, 2])
    assert seen.observers == (1, 2)
    assert seen.kinds == {"gradient": 10, "release": 2}
    assert (seen.messages, seen.size) == (12, 120)


@pytest.mark.parametrize("valid", [True, False])
def test_what_follows_from_the_release_or_from_nothing_adds_nothing(valid) -> None:
    for view in ("T-V0", "T-V2"):
        answer = answered(as_certificate("retrain-equivalence", view, valid=valid))
        seen = seen_by({1: heard(gradient=3, model=5, release=1)}, answer, knew_the_release=[1])
        assert (seen.epsilon, seen.by, seen.reason) == (0.0, view, f"reason of {view}.")
        assert cover_of("gradient", answer).number == 4


def test_a_newcomer_is_not_covered_by_what_is_given_the_release() -> None:
    received = {1: heard(gradient=1), 2: heard(gradient=1)}
    assert seen_by(received, answered(RELEASED), knew_the_release=[1]).epsilon is None
    assert seen_by(received, answered(RELEASED), knew_the_release=[1, 2]).epsilon == 0
    cold = answered(as_certificate("retrain-equivalence", "T-V0"))
    assert seen_by(received, cold).epsilon == 0


def test_a_clipped_broadcast_covers_all_messages_by_one_number() -> None:
    answer = answered(as_certificate("single-node", "none", 0.1), as_certificate("message", "T-V1", 0.5))
    few = seen_by({1: heard(correction=1)}, answer)
    many = seen_by({1: heard(correction=1, model=40, disagreement=2), 2: heard(correction=1)}, answer)
    for seen in (few, many):
        assert seen.epsilon == pytest.approx(epsilon_of(0.5, 1e-5), rel=1e-9)
        assert seen.by == "T-V1"
    assert cover_of("model", answer).number == 5


def test_a_certificate_that_is_not_valid_covers_nothing() -> None:
    answer = answered(as_certificate("message", "none", valid=False))
    seen = seen_by({1: heard(correction=1)}, answer)
    assert seen.epsilon is None and seen.by == "no certificate"
    assert seen.reason == (
        "It holds messages of kind correction. Certificate 4 is not valid: premise 'radius' is assumed (that is how it "
        "was)."
    )
    for kind, view in (("certifier", "T8"), ("transcript", "transcript"), ("retrain-equivalence", "none")):
        answer = answered(as_certificate(kind, view, valid=False))
        assert seen_by({1: heard(release=1)}, answer).epsilon is None


@pytest.mark.parametrize(("kind", "view"), [("certifier", "T8"), ("transcript", "transcript")])
def test_tokens_and_their_release_are_one_number_and_other_sums_are_not_in_it(kind, view) -> None:
    answer = answered(as_certificate(kind, view, 0.7), noise=(3,))
    for counts in ({"token": 8}, {"release": 1}, {"token": 2, "release": 1}):
        seen = seen_by({1: heard(**counts), 2: heard(**counts)}, answer)
        assert seen.epsilon == pytest.approx(epsilon_of(0.7, 1e-5), rel=1e-9) and seen.by == view
    mixed = seen_by({1: heard(token=2, model=1)}, answer)
    assert mixed.epsilon is None and "kind model. The claim is about the tokens" in mixed.reason
    for observers in ((3,), (1, 3)):
        own = seen_by({v: heard(token=1) for v in observers}, answer)
        assert (own.epsilon, own.by) == (None, "own noise")


def test_a_claim_without_a_gaussian_number_gives_its_own_epsilon() -> None:
    answer = answered(as_certificate("certifier", "T8", None, epsilon=2.0))
    assert seen_by({1: heard(token=5, release=1)}, answer).epsilon == 2.0
    assert cover_of("token", answer).mu is None and cover_of("token", answer).covered


def test_without_a_view_the_release_alone_is_covered() -> None:
    answer = answered(as_certificate("retrain-equivalence", "none", 0.4))
    only = seen_by({1: heard(release=1)}, answer)
    assert only.epsilon == pytest.approx(epsilon_of(0.4, 1e-5), rel=1e-9)
    assert (only.by, only.reason) == ("release", "claim of retrain-equivalence.")
    more = seen_by({1: heard(release=1, model=3, gradient=1)}, answer)
    assert more.epsilon is None
    assert more.reason == "It holds messages of kind model, gradient. reason of none."
    one_node = answered(as_certificate("single-node", "none", 0.4))
    assert seen_by({1: heard(release=1)}, one_node).epsilon is None  # the claim is about one model, not a broadcast


def test_the_node_whose_data_were_deleted_is_outside_every_claim() -> None:
    answer = answered(RELEASED, asker=2)
    alone = seen_by({2: heard(gradient=1)}, answer, knew_the_release=[2])
    assert (alone.epsilon, alone.by) == (None, "own data")
    pooled = seen_by({1: heard(gradient=1), 2: []}, answer, knew_the_release=[1, 2])
    assert (pooled.epsilon, pooled.by) == (None, "own data")  # it brings what it knew along
    left = seen_by({2: []}, answer)
    assert (left.epsilon, left.by, left.messages) == (0.0, "nothing heard", 0)


def test_no_certificate_says_why_in_the_words_of_the_method() -> None:
    answer = answered(reason="none: the tolerance was not reached")
    assert answer.delta is None
    assert seen_by({1: []}, answer).epsilon == 0
    seen = seen_by({1: heard(model=1)}, answer)
    assert seen.epsilon is None
    assert seen.reason.endswith("kind model. The answer has no certificate: the tolerance was not reached.")
    again = seen_by({1: heard(model=1)}, answered(retrained=True))
    assert (again.epsilon, again.by) == (0.0, "T-V0")
