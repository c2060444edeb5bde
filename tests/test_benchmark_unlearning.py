"""The ratios that the benchmark of unlearning prints, and what it refuses."""

from __future__ import annotations

import pytest

from benchmarks import unlearning


def cost(seconds: float, reduces: int) -> dict:
    return {
        "seconds": seconds, "gradients": 4, "hvps": reduces - 4, "all_reduces": reduces, "messages": 198 * reduces,
        "bytes": 8 * 4030 * 198 * reduces, "valid": True,
    }  # fmt: skip


def test_ratios_compare_the_first_answer_with_retraining_and_with_the_diagonal():
    compared = {"retraining": cost(4.0, 47), "newton with diagonal": cost(1.5, 120)}
    factor = {"built_in": 2.1}
    found = unlearning.ratios([cost(0.5, 30)], compared, factor, "newton with diagonal")
    assert found == {"share_of_retraining": 0.125, "times_fewer_all_reduces": 4.0, "break_even": 3}
    slower = unlearning.ratios([cost(2.0, 30)], compared, factor, "newton with diagonal")
    assert slower["break_even"] is None
    assert unlearning.ratios([cost(0.5, 30)], compared, None, "newton with diagonal") == {"share_of_retraining": 0.125}


def test_a_stream_that_slows_down_shows():
    answers = [cost(9.0, 30), *(cost(1.0, 30) for _ in range(10)), *(cost(2.0, 33) for _ in range(5))]
    found = unlearning.ratios(answers, {"retraining": cost(4.0, 47)}, None, "newton with diagonal")
    assert found["last_five_against_second_to_sixth_seconds"] == 2.0
    assert found["last_five_against_second_to_sixth_all_reduces"] == pytest.approx(1.1)


def test_what_is_printed_says_what_was_asked_for(capsys):
    answers = [cost(0.5, 30), cost(0.4, 29)]
    compared = {"retraining": cost(4.0, 47), "newton with diagonal": cost(1.5, 120)}
    factor = {"built_in": 2.1}
    unlearning.show(
        {
            "machine": "a machine", "public_writers": 200, "parameters": 4030, "recipe": "84 rounds", "factor": factor,
            "answers": answers, "compared": compared,
            **unlearning.ratios(answers, compared, factor, "newton with diagonal"),
        }
    )  # fmt: skip
    text = " ".join(capsys.readouterr().out.split())
    for piece in (
        "unlearning, public curvature 0.500 4 26 30 5,940", "d = 4,030: 2.10 s, once", "retraining is 84 rounds",
        "share of retraining: 0.125 (asked for: at most 0.03)",
        "times fewer all reduces: 4 (asked for: at least 20)", "break even: 3", "2 0.400 29 valid",
    ):  # fmt: skip
        assert piece in text, piece


@pytest.mark.parametrize("wrong", [["--stream", "0"], ["--stream", "99"], ["--public", "260"]])
def test_streams_and_writers_that_do_not_exist_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        unlearning.main(wrong)
    assert "--stream is 1 to 98, --public is 1 to 259" in capsys.readouterr().err
