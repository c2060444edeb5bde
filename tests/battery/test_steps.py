"""The remaining time of a battery: believed at first, corrected by what steps really take."""

from __future__ import annotations

import pytest

from fedunlearn.battery import steps as module
from fedunlearn.battery.steps import WHOLE, Steps


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def perf_counter(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock in place of the machine's."""
    hands = Clock()
    monkeypatch.setattr(module, "time", hands)
    return hands


def test_a_battery_twice_as_slow_as_expected_takes_twice_as_long(clock: Clock) -> None:
    told: list[tuple[str, int, int]] = []
    steps = Steps({"a": 10, "b": 10, "c": 20}, lambda *said: told.append(said))
    with steps.step("a"):
        assert steps.remaining("a", 0.0) == 40
        clock.now = 20.0
    assert steps.seconds == {"a": 20.0}
    with steps.step("b") as report:
        clock.now = 40.0
        report("b", 1, 1)
    # 40 s for what was expected to take 20: the 20 s of c are expected to take nearly 40
    with steps.step("c") as report:
        assert steps.remaining("c", 0.0) == pytest.approx(20 * (40 + 4) / (20 + 4))
        clock.now = 50.0  # time that passes is no longer ahead
        assert steps.remaining("c", 0.0) == pytest.approx(20 * (40 + 4) / (20 + 4) - 10)
        clock.now = 76.0
        assert steps.remaining("c", 0.9) == pytest.approx(0.1 * (36 + 0.1 * 20 * 80 / 42))  # 4 at the pace of this step
        clock.now = 80.0
    steps.finish()
    whole = [(done, total) for phase, done, total in told if phase == WHOLE]
    assert whole[-1] == (80, 80)
    assert all(done <= total for done, total in whole)
    assert ("b", 1, 1) in told


def test_only_the_phase_of_the_steps_name_moves_the_whole(clock: Clock) -> None:
    told: list[tuple[str, int, int]] = []
    steps = Steps({"a": 10, "b": 10}, lambda *said: told.append(said))
    with steps.step("a") as report:
        before = len(told)
        clock.now = 3.0
        report("train", 1, 2)
        assert told[before:] == [("train", 1, 2), (WHOLE, 3, 21)]  # 3 s are gone, and 7 + 10 are left
        clock.now = 4.0
        report("a", 1, 2)
        # the half took 4 s instead of 5: 6/7 of what was expected, and of this step as much as that and it say
        own = 10 * (4 + 2) / (5 + 2)
        assert told[-1] == (WHOLE, 4, int(4 + 0.5 * (4 + 0.5 * own) + own) + 1)


def test_a_step_that_took_no_time_makes_the_rest_no_free_ride(clock: Clock) -> None:
    steps = Steps({"a": 1, "b": 99}, lambda *said: None)
    with steps.step("a"):
        pass
    assert steps.remaining("b", 0.0) == pytest.approx(99 * 10 / 11)


def test_a_step_that_takes_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="expected to take some time"):
        Steps({"a": 0.0}, lambda *said: None)
