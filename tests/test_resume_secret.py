"""Secret noise is drawn once whatever becomes of the checkpoints, and none of them lies beside what it would tell."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from resume_kit import METHODS, Killed, after_checkpoint, go, power_cut, told
from safetensors.numpy import load_file
from small_runs import releases

from fedunlearn.errors import UserError
from fedunlearn.privacy import verify
from fedunlearn.results import checkpoints as checkpoint_files
from fedunlearn.results.checkpoints import Checkpoints
from fedunlearn.simulation import journal, story
from fedunlearn.unlearning.certified import newton_paper

REQUESTS = [{"level": "sample", "client": 1, "count": 5}, {"level": "client", "client": 4}]
WITHOUT = {"checkpoints": False}
AFTER_TRAINING = "checkpoint-000004.safetensors"
PAPER = {"method": "newton", "mode": "paper", "recovery": "none"}


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("fedunlearn.plots.draw_all", lambda *_, **__: None)


def secret(**changes):
    return told(**{"requests": REQUESTS, "privacy": {"noise": "secret"}, **changes})


def partial(out: Path) -> Path:
    (found,) = out.parent.glob(f"{out.name}.partial-*")
    return found


def kill_in(patch: pytest.MonkeyPatch, stage: str) -> None:
    """Kill the run at the end of a stage of the story, before its checkpoint."""
    work = getattr(story, stage)

    def end(*args, **more):
        work(*args, **more)
        raise Killed

    patch.setattr(story, stage, end)


def stopped(settings, out: Path, patch: pytest.MonkeyPatch, stage: str) -> Path:
    """Run until the end of a stage, as by kill -9, and return the folder that is left."""
    with patch.context() as inner:
        kill_in(inner, stage)
        with power_cut(inner):
            go(settings, out=out)
    return partial(out)


# --- drawn once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "then"), [({}, WITHOUT), (WITHOUT, WITHOUT), (WITHOUT, {})])
@pytest.mark.parametrize("method", ["newton", "dp-sgd"])
def test_without_checkpoints_what_was_drawn_is_stored_and_used_all_the_same(
    method, first, then, tmp_path, monkeypatch, draws
):
    before = stopped(secret(**METHODS[method], runtime=first), tmp_path / "run", monkeypatch, "_retrain")
    handed_out = {name: content for name, content in releases(before).items() if name.startswith("release-")}
    assert len(handed_out) == 2
    assert bool(list((before / "checkpoints").glob("checkpoint-*"))) == (first != WITHOUT)
    result, _ = go(secret(**METHODS[method], runtime=then), resume=tmp_path / "run")
    assert handed_out.items() <= releases(result.folder).items()
    assert verify(result.folder / "certificate.json").ok
    if method == "newton":
        drawn = draws.pop("draws")
        go(secret(), out=tmp_path / "whole")
        assert drawn == draws["draws"]


@pytest.mark.parametrize("lost", ["the folder", "the draws"])
def test_a_release_whose_draw_is_lost_ends_the_run(lost, tmp_path, monkeypatch, draws):
    run = stopped(secret(), tmp_path / "run", monkeypatch, "_retrain")
    if lost == "the folder":
        shutil.rmtree(run / "checkpoints")
    else:
        for path in (run / "checkpoints").glob("drawn-*"):
            path.unlink()
    draws.clear()
    for settings in (secret(), secret(runtime=WITHOUT)):
        with pytest.raises(UserError, match=r"release-0\.safetensors' was released, .* noise is not drawn twice"):
            go(settings, resume=tmp_path / "run")
    assert not draws


def test_a_method_that_releases_the_same_vector_again_is_resumed(tmp_path, monkeypatch):
    settings = secret(**METHODS["dp-sgd"])
    with monkeypatch.context() as patch:
        after_checkpoint(patch, 8)
        with power_cut(patch):
            go(settings, out=tmp_path / "run")
    assert "release-2.safetensors" in releases(partial(tmp_path / "run"))
    result, _ = go(settings, resume=tmp_path / "run")
    models = [load_file(result.folder / "models" / f"release-{number}.safetensors")["theta"] for number in range(3)]
    assert all(np.array_equal(model, models[0]) for model in models)


# --- nothing beside a release that tells its noise -------------------------------------------------------------------


@pytest.mark.parametrize("why", ["no memory", "no room for what is kept", "not wanted any more"])
def test_where_no_checkpoint_is_written_after_a_release_the_older_ones_are_deleted(why, tmp_path, monkeypatch):
    conclude, hidden = story._conclude, []

    def ending(state):
        assert list(state.journal.checkpoints.folder.glob("checkpoint-*"))
        hidden.append(np.array(state.network.read(0)))
        conclude(state)
        if why == "no memory":
            monkeypatch.setattr(journal, "available_bytes", lambda: 0)
        elif why == "no room for what is kept":
            state.world.unlearner._more = 1
        else:
            state.journal.checkpoints.states = False

    monkeypatch.setattr(story, "_conclude", ending)
    run = stopped(secret(), tmp_path / "run", monkeypatch, "_answer")
    monkeypatch.undo()
    assert {"release-0.safetensors", "release-1.safetensors"} <= releases(run).keys()
    assert not list((run / "checkpoints").glob("checkpoint-*"))
    assert len(list((run / "checkpoints").glob("drawn-*"))) == 2
    assert not any(hidden[0].tobytes() in path.read_bytes() for path in run.rglob("*") if path.is_file())
    before = releases(run)
    monkeypatch.setattr("fedunlearn.plots.draw_all", lambda *_, **__: None)
    result, said = go(secret(), resume=tmp_path / "run")
    assert "resumed at the beginning: there is no checkpoint" in said
    assert before.items() <= releases(result.folder).items()


def test_a_run_that_is_killed_before_older_checkpoints_are_deleted_deletes_them_when_it_goes_on(tmp_path, monkeypatch):
    original = checkpoint_files.write_atomically

    def write(path, *parts, private):
        original(path, *parts, private=private)
        if path.name == AFTER_TRAINING:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "write_atomically", write)
        with power_cut(patch):
            go(secret(), out=tmp_path / "run")
    assert len(list((partial(tmp_path / "run") / "checkpoints").glob("checkpoint-*"))) > 1
    with monkeypatch.context() as patch, power_cut(patch):
        kill_in(patch, "_answer")
        patch.setattr(Checkpoints, "write", lambda *_, **__: 0)
        go(secret(), resume=tmp_path / "run")
    folder = partial(tmp_path / "run") / "checkpoints"
    assert [path.name for path in folder.glob("checkpoint-*")] == [AFTER_TRAINING]


def paper_message(out: Path, patch: pytest.MonkeyPatch, number: int) -> tuple[np.ndarray, list[str]]:
    """Stop a run of the published method after so many checkpoints; returns the root's row before the answer."""
    rows, flood = [], newton_paper.flood

    def look(network, *args):
        rows.append(np.array(network.read(network.root)))
        return flood(network, *args)

    with patch.context() as inner:
        inner.setattr(newton_paper, "flood", look)
        written = after_checkpoint(inner, number)
        with power_cut(inner):
            go(secret(requests=REQUESTS[:1], unlearning=PAPER), out=out)
    return rows[0], written


def told_by_draws(run: Path, row: np.ndarray) -> bool:
    """Return whether the release less something that was drawn is the row before the answer."""
    release = load_file(run / "models" / "release-1.safetensors")["theta"]
    vectors = [v for path in (run / "checkpoints").glob("drawn-*") for v in load_file(path).values()]
    return any(v.shape == release.shape and np.abs(release - v - row).max() < 1e-5 for v in vectors)


def test_a_message_that_tells_the_row_before_is_forgotten_once_a_checkpoint_follows(tmp_path, monkeypatch):
    row, written = paper_message(tmp_path / "run", monkeypatch, 6)
    run = partial(tmp_path / "run")
    assert written[-1] == "round 2 of 4 of 'retrain 0'" and not told_by_draws(run, row)
    release = releases(run)["release-1.safetensors"]
    result, _ = go(secret(requests=REQUESTS[:1], unlearning=PAPER), resume=tmp_path / "run")
    assert releases(result.folder)["release-1.safetensors"] == release


def test_a_run_that_is_killed_before_the_message_is_forgotten_forgets_it_when_it_goes_on(tmp_path, monkeypatch):
    row, written = paper_message(tmp_path / "run", monkeypatch, 5)
    run = partial(tmp_path / "run")
    assert written[-1] == "the answer to request 0" and told_by_draws(run, row)
    settings = secret(requests=REQUESTS[:1], unlearning=PAPER)
    with monkeypatch.context() as patch, power_cut(patch):
        kill_in(patch, "_retrain")
        go(settings, resume=tmp_path / "run")
    run = partial(tmp_path / "run")
    assert not told_by_draws(run, row)
    for path in (run / "checkpoints").glob("checkpoint-*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"was emptied, .* noise is not drawn twice"):
        go(settings, resume=tmp_path / "run")
