"""Sweeps: which points a grid makes, and that a finished point is not run again."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import pytest

from fedunlearn.errors import UserError
from fedunlearn.sweep import load_sweep, numbers, run_sweep


class Runner:
    """Stands in for a run: writes the summary of each experiment, or fails where told to."""

    def __init__(self, fails_at=()):
        self.ran, self.fails_at = [], fails_at

    def __call__(self, experiment, folder, progress):
        key = (experiment.seed, experiment.training.rounds)
        self.ran.append(key)
        if key in self.fails_at:
            raise UserError("no memory")
        summary = {"name": experiment.name, "models": {"unlearned": {"test_accuracy": 0.5 + experiment.seed / 10}}}
        summary["requests"] = [{"method": "retrain", "certificate": None, "cost": {"seconds": 2.0}}]
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        return SimpleNamespace(summary=summary, folder=folder)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text('[unlearning]\nmethod = "retrain"\n')

    def _write(text, name="grid.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


GRID = 'base = "base.toml"\n[grid]\nseed = [0, 1]\n"training.rounds" = [2, 3]\n'


def test_every_combination_is_a_point_with_a_readable_folder_of_its_own(write):
    sweep = load_sweep(write(GRID))
    assert [(p.experiment.seed, p.experiment.training.rounds) for p in sweep.points] == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert sweep.name == "grid" and str(sweep.out) == "runs/grid"
    assert sweep.points[0].folder.startswith("seed=0,training.rounds=2-")
    assert len({p.folder for p in sweep.points}) == 4


def test_dotted_keys_may_be_written_with_or_without_quotes(write):
    plain = load_sweep(write(GRID.replace('"training.rounds"', "training.rounds")))
    assert [p.values for p in plain.points] == [p.values for p in load_sweep(write(GRID)).points]


def test_values_may_be_texts_that_look_like_other_things(write):
    sweep = load_sweep(write('base = "base.toml"\n[grid]\n"data.train_clients" = ["5", "0-3"]\n'))
    assert [p.experiment.data.train_clients for p in sweep.points] == ["5", "0-3"]


def test_equal_settings_are_one_point(write):
    assert len(load_sweep(write(GRID.replace("[0, 1]", "[0, 0]"))).points) == 2


def test_folders_depend_on_what_is_computed_and_on_nothing_else(write):
    before = [p.folder for p in load_sweep(write(GRID)).points]
    write('name = "other"\nout = "x"\n[runtime]\nworkers = 0\n[unlearning]\nmethod = "retrain"\n', "base.toml")
    assert [p.folder for p in load_sweep(write(GRID)).points] == before
    write('[training]\nlr = 0.7\n[unlearning]\nmethod = "retrain"\n', "base.toml")
    after = [p.folder for p in load_sweep(write(GRID)).points]
    assert not set(after) & set(before)


def test_a_finished_point_is_not_run_again_and_a_failed_one_is(write):
    sweep = load_sweep(write(GRID))
    first = Runner(fails_at={(1, 2)})
    outcomes = run_sweep(sweep, first)
    assert [o.status for o in outcomes] == ["run", "run", "failed", "run"]
    assert len(first.ran) == 4
    second = Runner()
    outcomes = run_sweep(load_sweep(write(GRID)), second)
    assert [o.status for o in outcomes] == ["cached", "cached", "run", "cached"]
    assert second.ran == [(1, 2)]


def test_an_interrupted_sweep_goes_on_where_it_stopped(write):
    sweep = load_sweep(write(GRID))

    class Interrupted(Runner):
        def __call__(self, experiment, folder, progress):
            if len(self.ran) == 2:
                raise KeyboardInterrupt
            return super().__call__(experiment, folder, progress)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, Interrupted())
    rest = Runner()
    assert [o.status for o in run_sweep(sweep, rest)] == ["cached", "cached", "run", "run"]
    assert rest.ran == [(1, 2), (1, 3)]


def test_the_summary_has_a_row_a_point(write):
    sweep = load_sweep(write(GRID))
    run_sweep(sweep, Runner(fails_at={(0, 3)}))
    with (sweep.out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["run", "failed", "run", "run"]
    assert [row["seed"] for row in rows] == ["0", "0", "1", "1"]
    assert [row["models.unlearned.test_accuracy"] for row in rows] == ["0.5", "", "0.6", "0.6"]
    assert rows[0]["requests.0.cost.seconds"] == "2.0"
    assert rows[1]["error"] == "no memory"
    assert {row["schema"] for row in rows} == {"fedunlearn/sweep/1"}
    assert not list(sweep.out.glob("*.partial"))


def test_numbers_of_a_summary_leave_texts_and_lists_out():
    summary = {"seconds": {"total": 1.5}, "models": {"a": {"x": 1, "none": None, "list": [1]}}, "seed": 3}
    summary["requests"] = [{"method": "m", "certificate": {"valid": True}}, {"cost": {"messages": 7}}]
    expected = {
        "models.a.x": 1,
        "requests.0.certificate.valid": True,
        "requests.1.cost.messages": 7,
        "seconds.total": 1.5,
    }
    assert numbers(summary) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nseed = [1]\n", "base is missing"),
        ('base = "nix.toml"\n[grid]\nseed = [1]\n', "names no file"),
        ("base = 3\n[grid]\nseed = [1]\n", "base = 3 must be a text in quotes"),
        ('base = "base.toml"\n', r"\[grid\] must hold"),
        ('base = "base.toml"\n[grid]\n', r"\[grid\] must hold"),
        ('base = "base.toml"\n[grid]\nseed = 3\n', "grid.seed = 3 must be a list"),
        ('base = "base.toml"\n[grid]\nseed = []\n', "must be a list of at least one value"),
        ('base = "base.toml"\n[grid]\nout = ["a"]\n', "grid.out is not a key"),
        ('base = "base.toml"\ngrd = 1\n', "grd is not a known key, did you mean 'grid'"),
        (
            'base = "base.toml"\n[grid]\nseed = [1]\n"training.lr" = [1.0, 0]\n',
            "point seed=1, training.lr=0: .*greater than 0",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_runs(write, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load_sweep(write(text))
    assert "\n" not in str(caught.value)


def test_a_damaged_summary_is_not_taken_for_a_result(write):
    sweep = load_sweep(write(GRID))
    folder = sweep.out / sweep.points[0].folder
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        run_sweep(sweep, Runner())


# --- named points ----------------------------------------------------------------------------------------------------

NAMED = """
base = "base.toml"
[[points]]
name = "plain"
[[points]]
name = "tuned"
unlearning.method = "finetune"
unlearning.rounds = 2
"training.rounds" = 4
[[points]]
name = "elsewhere"
base = "other.toml"
may_refuse = true
"""


def test_named_points_have_changes_and_bases_of_their_own(write):
    write('[training]\nrounds = 9\n[unlearning]\nmethod = "retrain"\n', "other.toml")
    points = load_sweep(write(NAMED)).points
    assert [(p.name, p.experiment.name, p.may_refuse) for p in points] == [
        ("plain", "plain", False), ("tuned", "tuned", False), ("elsewhere", "elsewhere", True)
    ]  # fmt: skip
    assert [p.experiment.training.rounds for p in points] == [20, 4, 9]
    assert points[1].experiment.unlearning.method == "finetune"
    assert points[1].values == {"unlearning.method": "finetune", "unlearning.rounds": 2, "training.rounds": 4}
    assert [p.folder[:-9] for p in points] == ["plain", "tuned", "elsewhere"]


def test_every_named_point_takes_every_combination_of_the_grid(write):
    write('[training]\nrounds = 9\n[unlearning]\nmethod = "retrain"\n', "other.toml")
    points = load_sweep(write(NAMED.replace("[[points]]", "[grid]\nseed = [3, 4]\n[[points]]", 1))).points
    assert [(p.name, p.experiment.seed) for p in points] == [
        (name, seed) for name in ("plain", "tuned", "elsewhere") for seed in (3, 4)
    ]
    assert points[1].folder.startswith("plain,seed=4-")


def test_what_a_point_calls_itself_is_no_part_of_what_it_computes(write):
    text = 'base = "base.toml"\n[[points]]\nname = "a"\nseed = 5\n'
    (one,) = load_sweep(write(text)).points
    (other,) = load_sweep(write(text.replace('"a"', '"b"'))).points
    assert one.folder[-8:] == other.folder[-8:] and one.folder != other.folder


def test_a_refusal_that_was_foreseen_is_a_result_and_another_one_a_failure(write):
    text = (
        'base = "base.toml"\n[[points]]\nname = "a"\nseed = 1\n"training.rounds" = 2\nmay_refuse = true\n'
        '[[points]]\nname = "b"\nseed = 1\n"training.rounds" = 3\n[[points]]\nname = "c"\nmay_refuse = true\n'
    )
    sweep = load_sweep(write(text))
    outcomes = run_sweep(sweep, Runner(fails_at={(1, 2), (1, 3)}))
    assert [(o.status, o.error) for o in outcomes] == [("refused", "no memory"), ("failed", "no memory"), ("run", "")]
    with (sweep.out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["training.rounds"] for row in rows] == ["2", "3", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("points = 3\n", "points must be tables"),
        ("points = []\n", "points must be tables"),
        ("[[points]]\nseed = 1\n", "points.0.name is missing"),
        ('[[points]]\nname = "a b"\n', "points.0.name = .a b. is not allowed"),
        ('[[points]]\nname = "a"\n[[points]]\nname = "a"\nseed = 1\n', "points.1.name = .a. is the name of another"),
        ('[[points]]\nname = "a"\n[[points]]\nname = "b"\n', "points 'a' and 'b' have the same settings"),
        ('[[points]]\nname = "a"\nout = "x"\n', "points.0.out is not a key of a point"),
        ('[[points]]\nname = "a"\nbase = "nix.toml"\n', "points.0.base = .nix.toml. names no file"),
        ('[[points]]\nname = "a"\nbase = 3\n', "points.0.base = 3 must be a text in quotes"),
        ('[[points]]\nname = "a"\nmay_refuse = "yes"\n', "points.0.may_refuse = .yes. must be true or false"),
        ('[[points]]\nname = "a"\ntraining.lr = 0\n', "point a: .*greater than 0"),
    ],
)
def test_a_mistake_in_a_named_point_is_told_before_anything_runs(write, text, message):
    base = 'base = "base.toml"\n'
    with pytest.raises(UserError, match=message) as caught:
        load_sweep(write(base + text))
    assert "\n" not in str(caught.value)


def test_without_a_base_of_the_file_every_point_needs_one(write):
    assert load_sweep(write('[[points]]\nname = "a"\nbase = "base.toml"\n')).points
    with pytest.raises(UserError, match="base is missing"):
        load_sweep(write('[[points]]\nname = "a"\n'))
