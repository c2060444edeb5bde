"""The questions of ``fedunlearn certify``: published and proved numbers, both ways to print them, and mistakes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.privacy import delta_of, epsilon_of, mu_of, sigma_for


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda words: CliRunner().invoke(app, ["certify", *words.split()])


@pytest.fixture
def ask(call):
    """Return the JSON answer to a question, with its tables as lists of rows."""

    def asked(words):
        result = call(f"{words} --json")
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout)
        assert answer["schema"] == f"fedunlearn/certify-{words.split()[0]}/1"
        return answer["computed"], [table["rows"] for table in answer["tables"]], answer

    return asked


DOCUMENT = (Path(__file__).parents[1] / "docs" / "accounting.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```console\n\$ fedunlearn certify (.*)\n((?:.*\n)*?)```", DOCUMENT, flags=re.MULTILINE)
QUESTIONS = {
    "releases": "releases --count 200",
    "sampled": "sampled --rate 1 --steps 4 --noise-multiplier 8",
    "group": "group --records 3",
    "rewind": "rewind --preset eicu",
    "correction": "correction --deleted 1 --client-records 50 --clients 10 --total 500 --l2 0.1",
    "walk": "walk --visits 2,5,9 --hops 10",
    "iteration": "iteration --start-radius 0.5 --steps 10 --lr 0.05 --clip 1 --sigma 0.5",
    "contraction": "contraction --ratio 2",
    "start": "start",
}


def test_every_question_has_a_place_in_the_help(call):
    shown = call("--help").stdout
    assert all(f" {name} " in shown for name in QUESTIONS)
    assert call("").stdout == shown  # nothing asked


@pytest.mark.parametrize("question", QUESTIONS)
def test_text_and_json_hold_the_same_numbers(question, call, ask):
    computed, tables, answer = ask(QUESTIONS[question])
    text = " ".join(call(QUESTIONS[question]).stdout.split())
    numbers = [v for v in computed.values() if isinstance(v, float)]
    numbers += [v for rows in tables for row in rows for v in row.values() if isinstance(v, float)]
    assert numbers or computed
    assert all(f"{number:.6g}" in text for number in numbers)
    assert all(" ".join(note.split()) in text for note in answer["notes"])
    assert call(f"--sigma 1 {QUESTIONS[question]}").exit_code == 2


def test_releases_the_first_leaver_pays_for_all_and_nobody_after_a_restart(ask):
    computed, (rows,), _ = ask("releases --count 200 --epsilon 1 --delta 1e-5")
    secret = {row["left_at_request"]: row["epsilon_secret_starts"] for row in rows}
    assert secret[1] == pytest.approx(22.7, abs=0.05) and secret[200] == pytest.approx(1, abs=1e-9)
    assert secret[100] == pytest.approx(epsilon_of(math.sqrt(101) * mu_of(1, 1e-5), 1e-5), rel=1e-9)
    assert all(row["epsilon_restart_from_the_release"] == pytest.approx(1, abs=1e-9) for row in rows)
    assert computed["sigma_factor_secret_starts"] == pytest.approx(math.sqrt(200))
    assert computed["sigma_factor_restart_from_the_release"] == 1
    below = ask("releases --count 200 --below 5")[0]["sigma_factor_secret_starts"]
    assert epsilon_of(math.sqrt(200) * mu_of(1, 1e-5) / below, 1e-5) == pytest.approx(5, rel=1e-9)
    assert len(ask("releases --count 1")[1][0]) == 1


def test_sampled_answers_for_epsilon_noise_steps_and_capacity(ask):
    computed = ask("sampled --rate 0.01 --steps 1000 --noise-multiplier 1")[0]
    assert computed["decided_by"] == "pld"
    assert computed["second_opinion_rdp"] == pytest.approx(2.1078, abs=1e-3)  # the best whole order
    assert computed["second_opinion_prv_lower"] <= computed["epsilon"] <= computed["second_opinion_rdp"]
    assert computed["epsilon"] == pytest.approx(1.83, abs=0.01)
    noise = ask("sampled --rate 0.2 --steps 5 --epsilon 1 --group 3")[0]
    assert 0.99 < noise["epsilon"] <= 1
    steps = ask(f"sampled --rate 0.2 --noise-multiplier {noise['noise_multiplier']} --epsilon 1 --group 3")[0]
    assert steps["steps"] == 5
    group = ask(f"sampled --rate 0.2 --noise-multiplier {noise['noise_multiplier']} --epsilon 1 --steps 5")[0]
    assert group["group"] == 3
    nothing = ask("sampled --rate 0.2 --noise-multiplier 0.3 --epsilon 0.1 --steps 5")
    assert nothing[0] == {"group": 0} and "Not even one" in nothing[2]["notes"][0]


def test_sampled_without_sampling_is_the_exact_gaussian(ask):
    computed = ask("sampled --rate 1 --steps 4 --noise-multiplier 8")[0]
    assert computed["decided_by"] == "profile"
    assert computed["epsilon"] == pytest.approx(epsilon_of(2 / 8, 1e-5), rel=1e-9)


def test_a_group_is_worth_its_sensitivity_and_not_the_rule_for_pairs(ask):
    computed, (rows,), _ = ask("group --records 20 --epsilon 1 --below 5")
    assert [row["records"] for row in rows] == [1, 2, 3, 5, 10, 20]
    ten = rows[4]
    assert ten["epsilon"] == pytest.approx(epsilon_of(10 * mu_of(1, 1e-5), 1e-5))
    assert (ten["epsilon_from_the_pair"], ten["delta_from_the_pair"]) == pytest.approx((10, 10e-5 * math.exp(9)))
    largest = computed["largest_group"]
    mu = mu_of(1, 1e-5)
    assert epsilon_of(largest * mu, 1e-5) <= 5 < epsilon_of((largest + 1) * mu, 1e-5)


def test_rewind_reproduces_the_published_point_and_calls_it_vacuous(ask):
    computed, (bounds, worths), answer = ask("rewind --preset eicu")
    assert [row["rewound"] for row in bounds] == ["10 %", "36 %", "74 %", "90 %", "99 %"]
    published = [row["theorem_3_1"] for row in bounds]
    assert published == pytest.approx([118.6, 115.5, 97.5, 59.7, 8.2], abs=0.1)
    for bound, worth in zip(bounds, worths):
        values = [v for k, v in bound.items() if k not in ("rewound", "k")]
        assert worth["delta"] == min(values) and worth["worth"].startswith("vacuous")
        assert worth["sigma_for_epsilon"] == pytest.approx(sigma_for(worth["delta"], 1, 1e-5))
        assert worth["epsilon_at_sigma"] == pytest.approx(epsilon_of(worth["delta"] / 0.01, 1e-5))
    assert computed["share_of_the_training"] > 0.99
    assert any("vacuous" in note for note in answer["notes"])


def test_rewind_with_constants_of_ones_own(ask):
    words = "rewind --steps 100 --lr 0.01 --deleted 10 --total 1000 --gradient 1 --smoothness 1 --fraction 0.5"
    computed, (bounds, _), _ = ask(f"{words} --sigma 0.1")
    assert bounds[0]["theorem_3_1"] == pytest.approx(0.0214748, abs=1e-7)
    k = computed["k_for_epsilon_at_sigma"]
    allowed = 0.1 * mu_of(1, 1e-5)

    def own(steps):
        return 0.02 * (1.01**100 - 1.01**steps)

    assert own(k) <= allowed < own(k - 1)
    projected = ask(f"{words} --radius 0.001")[1]
    assert projected[0][0]["projection"] == 0.002 and projected[1][0]["by"] == "projection"
    plain = ask("rewind --steps 10 --lr 0.1 --deleted 1 --total 10 --gradient 1 --fraction 0.5")
    assert plain[0] == {} and list(plain[1][0][0]) == ["rewound", "k", "gradient_only"]


def test_walk_merges_at_the_best_prefix(ask):
    """Ten visits in sixty hops: the best prefix of the honest accounting is far below the end of the walk."""
    visits = "1,2,3,4,5,6,7,8,9,60"
    computed, (rows,), _ = ask(
        f"walk --hops 60 --visits {visits} --start-radius 0.5 --clip 1 --lr 0.05 --noise 20 --epsilon 3"
    )
    by = {row["accounting"]: row for row in rows}
    prefixes = {k: (1 + 0.1 * hop) / math.sqrt(k) for k, hop in enumerate(map(int, visits.split(",")), start=1)}
    assert by["merged at the best visit"]["mu"] == pytest.approx(min(prefixes.values()))
    assert by["merged at the last visit"]["mu"] == pytest.approx(prefixes[10])
    assert computed["best_visit_at_hop"] == 9
    mu = by["composition over the visits"]["mu"]
    assert mu == pytest.approx(math.sqrt(10) / 20)
    needed = by["merged at the best visit"]["noise_for_epsilon"]
    assert computed["noise_for_epsilon_best_proof"] == pytest.approx(needed)
    again = ask(f"walk --hops 60 --visits {visits} --start-radius 0.5 --clip 1 --lr 0.05 --noise {needed} --epsilon 3")
    assert again[1][0][0]["epsilon_at_this_noise"] == pytest.approx(3) and again[0]["hops_that_suffice"] == 9


def test_walk_published_and_conservative_noise(ask):
    computed, (rows,), _ = ask("walk --hops 100 --nodes 10 --clip 1 --seed 3")
    by = {row["accounting"]: row for row in rows}
    assert by["published, with ln N / N"]["noise_for_epsilon"] == pytest.approx(14.6, abs=0.05)
    assert by["published, with ln N / N"]["compares_with"] == "not proved"
    count = len(computed["visits"])
    assert by["composition over the visits"]["noise_for_epsilon"] == pytest.approx(sigma_for(count**0.5, 1, 1e-5))
    assert computed["visits"] == ask("walk --seed 3")[0]["visits"] != ask("walk --seed 4")[0]["visits"]
    inside = ask("walk --visits 2,5,9 --hops 10 --ball 0.01")[1][0]
    assert "contraction in the ball" in [row["accounting"] for row in inside]


def test_iteration_and_contraction_have_their_golden_numbers(ask):
    words = "iteration --start-radius 0.5 --steps 10 --lr 0.05 --clip 1"
    computed = ask(f"{words} --sigma 0.5")[0]
    assert computed["mu"] == pytest.approx(1.26491, abs=1e-5)
    assert computed["epsilon"] == pytest.approx(5.76, abs=0.005)
    noise = ask(f"{words} --epsilon 1")[0]
    assert noise["epsilon"] == pytest.approx(1, rel=1e-9) and noise["sigma"] > 0.5
    longer = ask("iteration --start-radius 0.5 --steps 100 --lr 0.05 --clip 1 --sigma 0.5")[0]
    assert longer["merged_at_step"] == 10 and longer["mu_at_the_end_alone"] > longer["mu"] == computed["mu"]
    steps, (rows,), _ = ask("contraction --radius 0.5 --sigma 0.5")
    assert steps["steps_needed"] == 6 and len(rows) == 6
    assert [row["delta"] for row in rows] == pytest.approx([0.510, 0.216, 0.0649, 0.00955, 2.5e-4, 2.65e-8], rel=2e-2)
    hopeless = ask("contraction --ratio 30")
    assert hopeless[0]["steps_needed"] is None and "more noise" in hopeless[2]["notes"][-1]


def test_start_is_the_total_variation_of_the_certificate(ask):
    rows = ask("start")[1][0]
    expected = {0.1: 1.3, 0.5: 5.7, 1.0: 10.7, 3.0: 28.1, 5.0: 42.5, 8.0: 59.5, 10.0: 68.3}
    assert {row["epsilon"]: round(row["points_of_a_score"], 1) for row in rows} == expected
    (one,) = ask("start --mu 2")[1][0]
    assert one["points_of_a_score"] == pytest.approx(100 * delta_of(2, 0)) and one["mu"] == 2


def test_correction_is_the_worst_case_of_its_parts(ask):
    words = "correction --deleted 2 --client-records 60 --clients 10 --total 600 --l2 0.5 --tau 1e-4 --consensus 1e-3"
    computed, (rows,), _ = ask(words)
    slope = 2 * math.sqrt(2) * 2 / 600 + 1e-4
    step = slope / 0.5
    distance = (0.27216553 / 2 * step**2 + 1e-4) / 0.5 + 2e-3
    assert computed["norm_of_the_correction_at_most"] == pytest.approx(step)
    assert computed["sensitivity"] == pytest.approx(distance, rel=1e-6)
    model, message, own = rows
    assert model["sigma"] == pytest.approx(sigma_for(distance, 1, 1e-5), rel=1e-6)
    # The message at the model's noise shows far more than the model: that is what its own row is for.
    assert message["epsilon"] == pytest.approx(epsilon_of(step / model["sigma"], 1e-5)) and message["epsilon"] > 1.5
    assert own["sigma"] > model["sigma"] and own["epsilon"] == pytest.approx(1)
    crude = ask(f"{words} --curvature fisher-diagonal")[0]
    assert crude["sensitivity"] > 2 * distance


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epsilon 1 --delta 1e-5", "needs --sensitivity"),
        ("--epsilon 1 releases --count 2", "certify releases: give its options after the name"),
        ("releases --count 2 --delta 0", "--delta 0: must be a number greater than 0 and less than 1"),
        ("releases --count 2 --below -1", "--below -1: must be a number greater than 0"),
        ("sampled --rate 0.1 --steps 5", "needs two of --steps, --noise-multiplier and --epsilon"),
        ("sampled --rate 2 --steps 5 --epsilon 1", "--rate 2: must be a number from 0 to 1"),
        ("sampled --rate 0.1 --steps 5 --epsilon 1 --sampling shuffled", "sampling must really be Poisson"),
        ("sampled --rate 0.1 --steps 5 --epsilon 1 --noise-multiplier 1 --group 2", "all three and no --group"),
        ("rewind", "needs --preset, or --steps"),
        ("rewind --preset mnist", "--preset mnist: must be one of eicu"),
        ("rewind --preset eicu --lr 1", "brings its own constants"),
        ("rewind --preset eicu --fraction 2", "fraction = 2.0 is not allowed"),
        ("rewind --steps 5 --lr 0.1 --deleted 9 --total 9 --gradient 1", "deleted = 9 is not allowed"),
        ("walk --visits 3,x", "--visits 3,x: must be whole numbers"),
        ("walk --visits ,", "must name at least one hop"),
        ("walk --visits 5,3", "increasing hops"),
        ("walk --restart 0", "so no noise hides the start"),
        ("iteration --start-radius 1 --steps 5 --lr 0.1 --clip 1", "exactly one of --sigma and --epsilon"),
        ("iteration --start-radius 1 --steps 5 --lr 1 --clip 1 --sigma 1 --l2 1", "lr l2 must be below 1"),
        ("contraction", "needs either --ratio, or --radius and --sigma"),
        ("start --epsilon 1 --mu 1", "at most one of --epsilon and --mu"),
        ("correction --deleted 9 --client-records 5 --clients 2 --total 10 --l2 1", "is not a deletion"),
        ("correction --deleted 1 --client-records 5 --clients 2 --total 10 --l2 1 --weighting x", "--weighting x"),
        ("correction --deleted 1 --client-records 5 --clients 2 --total 10 --l2 1 --curvature x", "--curvature x"),
    ],
)
def test_mistakes_are_one_sentence(call, words, message):
    result = call(words)
    lines = result.stderr.strip().splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    assert message in lines[0]


def _example(words):
    return pytest.param(words, marks=pytest.mark.slow) if "--group" in words or "--epsilon 3" in words else words


@pytest.mark.parametrize("words", [_example(words) for words, _ in EXAMPLES])
def test_the_examples_of_the_document_print_what_it_shows(words, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "118")
    shown = [line.rstrip() for line in call(words).stdout.rstrip().splitlines()]
    assert shown == dict(EXAMPLES)[words].splitlines()


def test_the_document_has_an_example_of_every_question():
    assert {words.split()[0] for words, _ in EXAMPLES} == {"--sensitivity", *QUESTIONS}
