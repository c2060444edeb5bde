"""The audit in words: everything a reader needs is printed, and audit.json fits its schema."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import example_run
import numpy as np
import pytest
from rich.console import Console

from fedunlearn.audit import audit_game
from fedunlearn.audit.conduct import Audit, Audited
from fedunlearn.audit.report import Report, audit_panels, audit_table, check_report, report, write_audit
from fedunlearn.audit.whitebox import noise_law
from fedunlearn.errors import UserError
from fedunlearn.randomness import generator
from fedunlearn.results.fields import field_table
from fedunlearn.unlearning.games import gaussian_game


def played(shift: float, kind: str = "tight", certificate=None, trials: int = 400, sigma: float | None = None):
    """Return a verdict on two worlds ``shift`` times the claimed bound apart, noised with ``sigma``."""
    claim = certificate or example_run.certificate()
    one = np.array([shift * claim.sensitivity, 0.0])
    game = gaussian_game(f"pair {shift:g}", kind, one, np.zeros(2), sigma or claim.sigma, claim.sensitivity)
    return audit_game(game, trials, claim.mu, claim.epsilon, claim.delta, 3, method="newton")


def example(*verdicts, noise=None, remarks=(), reason="", certificate=None) -> Audit:
    claims = (Audited(certificate or example_run.certificate(), verdicts, remarks, noise),) if not reason else ()
    return Audit("femnist_newton", 5, 400, "newton", "client 17 leaves with 158 samples", claims, reason)


def printed(audit: Audit, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(audit_table(report(audit)))
    return console.file.getvalue()


def flat(audit: Audit) -> str:
    return " ".join(printed(audit, 160).split())


def test_every_number_a_reader_needs_is_printed():
    tight, natural = played(1.0), played(0.04, "natural")
    said = flat(example(tight, natural, remarks=("no third world",)))
    for piece in (
        "femnist_newton audit of newton, seed 5",
        "client 17 leaves with 158 samples; 400 trials a world, bounds at 95 %, all together at 90 %",
        "retrain-equivalence: ε = 1, δ = 1e-5, μ = 0.268 valid",
        "pair 1 (tight) 1 ",
        "pair 0.04 (natural) 0.04 0 0 ",
        tight.power(),
        natural.power(),
        "no power here",
        "no third world",
        "no claim is refuted",
    ):
        assert piece in said, piece


def test_the_table_shows_the_bounds_of_the_verdict():
    verdict = played(12.0)
    assert verdict.refuted and verdict.epsilon_lower > 1
    said = flat(example(verdict))
    assert f"12 {verdict.epsilon_lower:.3g} {verdict.mu_lower:.3g} {verdict.smallest_refutable:.3g} refuted" in said
    assert "refuted by trade-off and distance" in said
    assert said.endswith("refuted: retrain-equivalence")


def test_without_power_the_last_line_says_so():
    assert flat(example(played(0.04, "natural"))).endswith("no game had the power to refute one")
    assert flat(example(remarks=("the method supplies none",))).endswith("no game had the power to refute one")


def test_a_claim_without_power_is_named_beside_one_that_was_tried():
    tried, untried = (Audited(example_run.certificate(), (v,), ()) for v in (played(1.0), played(0.04, "natural")))
    both = dataclasses.replace(example(), claims=(tried, untried))
    assert flat(both).endswith("no claim is refuted, but no game had the power to refute retrain-equivalence")
    assert flat(dataclasses.replace(both, claims=(tried,))).endswith("no claim is refuted, which proves none")


def test_a_walk_that_mixes_its_starts_is_judged_by_what_is_left_of_them():
    """Starts as far apart as allowed, ends that are one: no number of such audits would notice a fault."""
    claim = example_run.certificate()
    game = gaussian_game("walk", "natural", np.array([0.0]), np.zeros(1), 1.0, 1.0)
    mixed = dataclasses.replace(game, sigma=None, distance=1.0)
    verdict = audit_game(mixed, 1000, claim.mu, claim.epsilon, claim.delta, 3, method="walk")
    assert verdict.ratio == 1.0 and verdict.outcome == "no power" and verdict.fault_needed > 5


def test_a_near_pair_of_unknown_noise_has_no_power_either():
    claim = example_run.certificate()
    game = gaussian_game("walk", "natural", np.array([0.01]), np.zeros(1), 1.0, 1.0)
    hidden = dataclasses.replace(game, sigma=None)
    verdict = audit_game(hidden, 400, claim.mu, claim.epsilon, claim.delta, 3, method="walk")
    assert verdict.outcome == "no power" and "0.01 0 0" in flat(example(verdict))


def test_noise_that_is_not_the_claimed_one_refutes():
    draws = generator(1, "test noise").standard_normal((1, 4000))
    honest, lie = example(noise=noise_law(draws)), example(noise=noise_law(draws / 2))
    assert not honest.refuted and lie.refuted
    assert "of the claimed variance" in flat(honest) and "it is not what is claimed" not in flat(honest)
    assert "it is not what is claimed" in flat(lie) and "refuted: retrain-equivalence" in flat(lie)
    entry = report(lie)["claims"][0]["noise"]
    assert entry["refutes"] and entry["variance"] == pytest.approx(0.25, rel=0.1)


def test_an_unmet_premise_stands_beside_the_claim():
    open_ = example_run.certificate(extractor="unverified")
    assert "NOT valid: some premise was not enforced" in flat(example(played(1.0), certificate=open_))


def test_nothing_claimed_is_one_sentence():
    audit = example(reason="'finetune' certifies nothing")
    assert "nothing is claimed, so there is nothing to refute: 'finetune' certifies nothing" in flat(audit)
    assert report(audit)["claims"] == [] and report(audit)["refuted"] is False


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_is_cut_off(width):
    text = printed(example(played(1.0), played(12.0), remarks=("a long remark " * 12,)), width)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_the_report_fits_its_schema_and_json():
    entries = report(example(played(1.0), played(30.0), remarks=("none",)), 2.5)
    assert json.loads(json.dumps(entries)) == entries == check_report(entries)
    assert entries["schema"] == "fedunlearn/audit/1" and entries["seconds"] == 2.5 and entries["refuted"]
    (claim,) = entries["claims"]
    assert claim["mu"] == example_run.certificate().mu
    assert [game["outcome"] for game in claim["games"]] == ["not refuted", "refuted"]
    assert claim["games"][0]["ratio"] == pytest.approx(1)
    assert "method" not in claim["games"][0] and "scores" not in claim["games"][0]
    for name, field in Report.model_fields.items():
        assert (field.alias or name) in entries and field.description


def test_the_documented_fields_are_those_of_the_schema():
    docs = Path(__file__).resolve().parents[2] / "docs" / "audit.md"
    assert field_table(Report) in docs.read_text(encoding="utf-8")


def test_infinite_numbers_become_null():
    verdict = played(1.0, trials=20)
    assert verdict.smallest_refutable == np.inf or verdict.smallest_refutable > 0
    strong = example_run.certificate(60.0, 1e-5)
    none = played(1.0, certificate=strong, trials=20)
    assert report(example(none, certificate=strong))["claims"][0]["games"][0]["smallest_refutable"] is None
    assert "none" in flat(example(none, certificate=strong))


@pytest.mark.parametrize(
    ("change", "place"),
    [({"trials": "many"}, "trials"), ({"claims": [{"kind": 3}]}, "claims.0.kind"), ({"schema": "other"}, "schema")],
)
def test_a_report_of_another_kind_is_refused(change, place):
    with pytest.raises(ValueError, match=f"audit.json: {place}"):
        check_report({**report(example(played(1.0))), **change})


def test_the_panels_are_what_was_played():
    verdicts = played(1.0), played(12.0)
    panels = audit_panels(example(*verdicts))
    assert [panel.title for panel in panels] == ["pair 1 (tight)", "pair 12 (tight)"]
    assert panels[1].refuted and panels[1].verdict.endswith("REFUTED") and "not refuted" in panels[0].verdict
    np.testing.assert_array_equal(panels[0].unlearned, verdicts[0].scores.unlearned)
    assert panels[0].mu == verdicts[0].mu and len(panels[0].unlearned) == 200


def test_the_folder_is_whole_or_not_there(tmp_path):
    audit = example(played(1.0))
    figure = write_audit(tmp_path / "new" / "audit", audit, report(audit), "a = 1\n")
    assert figure == tmp_path / "new" / "audit" / "audit.png" and figure.stat().st_size > 10_000
    assert json.loads((tmp_path / "new" / "audit" / "audit.json").read_text()) == report(audit)
    assert (tmp_path / "new" / "audit" / "settings.toml").read_text() == "a = 1\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["audit"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_audit(tmp_path / "file" / "audit", audit, report(audit), "")
    empty = example(reason="nothing")
    assert write_audit(tmp_path / "empty", empty, report(empty), "") is None
