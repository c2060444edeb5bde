"""What the battery leaves in a run directory: ``evaluation.json``, the same numbers as CSV, and the figures."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from fedunlearn.battery.settings import LEVELS, Level
from fedunlearn.errors import UserError
from fedunlearn.evaluation.standing_out import judgements
from fedunlearn.plots.influence_map import influence_map
from fedunlearn.plots.reach import reach_by_hop, reach_over_rounds
from fedunlearn.plots.relearning import relearning_curves
from fedunlearn.plots.roc import roc_curves
from fedunlearn.plots.style import save
from fedunlearn.results import versions
from fedunlearn.results.evaluation_schema import (
    EVALUATION,
    EVALUATION_TABLE,
    check_evaluation,
    evaluation_csv,
    read_evaluation,
)
from fedunlearn.results.files import cannot_write, readable_json, write_atomically
from fedunlearn.results.run_names import FIGURES
from fedunlearn.results.words import describe_request

if TYPE_CHECKING:
    from fedunlearn.battery.conduct import Evaluation

ROC, INFLUENCE, REACH, ROUNDS, RELEARNING = (
    f"evaluation-{name}.png" for name in ("roc", "influence", "reach", "rounds", "relearning")
)
FIGURE_FILES = (ROC, INFLUENCE, REACH, ROUNDS, RELEARNING)


def report(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the battery found as plain JSON values that fit the schema.

    Raises:
        ValueError: naming the first entry that does not fit.
    """
    run, found = evaluation.run, evaluation.found
    summary = run.summary
    requests = summary["requests"]
    return check_evaluation(
        {
            "battery": evaluation.settings.level,
            "run": {
                "name": summary["name"],
                "seed": summary["seed"],
                "method": requests[-1]["method"],
                "requests": [describe_request(entry["request"]) for entry in requests],
                "settings_sha256": evaluation.settings_sha256,
            },
            "settings": evaluation.settings.model_dump(mode="json"),
            "samples": evaluation.samples,
            "measures": [asdict(measure) for measure in found.measures],
            "judgements": [{**asdict(judgement), "measure": judgement.measure.name} for judgement in judgements(found)],
            "refusals": [asdict(refusal) for refusal in found.refusals],
            "curves": found.curves,
            "seconds": evaluation.seconds,
            "retold": evaluation.retold,
            "cached": evaluation.cached,
            "versions": versions(),
        }
    )


def refuse_lower(run: Path, level: Level) -> None:
    """Raise UserError, one sentence, where the run holds an evaluation of a higher level or an unreadable one."""
    try:
        there = read_evaluation(run)
    except UserError as error:
        raise UserError(f"{error}; --replace writes a new one over it") from None
    if there is not None and LEVELS.index(there["battery"]) > LEVELS.index(level):
        raise UserError(
            f"'{run}' holds an evaluation with --battery {there['battery']}, which says more than '{level}' would; "
            "--replace writes over it"
        )


def refuse_unwritable(run: Path) -> None:
    """Raise UserError where nothing can be written into a run: better known before the measuring than after it."""
    probe = run / FIGURES / f".{secrets.token_hex(4)}"
    try:
        probe.parent.mkdir(exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(run, error) from None


def figures(evaluation: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures that the curves of an evaluation give, by file name."""
    curves = evaluation["curves"]
    drawn: dict[str, Figure | None] = {}
    if curves.get("roc"):
        drawn[ROC] = roc_curves(curves["roc"])
    if (network := curves.get("network")) is not None:
        drawn |= {INFLUENCE: influence_map(network), REACH: reach_by_hop(network), ROUNDS: reach_over_rounds(network)}
    if (relearning := curves.get("relearning")) is not None:
        drawn[RELEARNING] = relearning_curves(relearning)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def write_evaluation(run: Path, evaluation: Mapping[str, Any]) -> list[Path]:
    """Write evaluation.json, evaluation.csv and the figures into a run directory, in place of an earlier evaluation's.

    Every file is replaced whole, evaluation.json last: where it is there, so is all that belongs to it. Figures of an
    earlier evaluation that this one does not draw are taken away.

    Args:
        run: folder of a finished run.
        evaluation: what :func:`report` returned.

    Returns:
        The figures.

    Raises:
        UserError: if nothing can be written there.
    """
    drawn = figures(evaluation)
    folder = run / FIGURES
    waiting: dict[Path, Path] = {}
    try:
        folder.mkdir(exist_ok=True)
        for name, figure in drawn.items():
            waiting[folder / name] = folder / f".{secrets.token_hex(4)}-{name}"
            save(figure, waiting[folder / name])
        for path, new in waiting.items():
            os.replace(new, path)
        for name in set(FIGURE_FILES) - set(drawn):
            (folder / name).unlink(missing_ok=True)
        write_atomically(run / EVALUATION_TABLE, evaluation_csv(evaluation).encode())
        write_atomically(run / EVALUATION, readable_json(evaluation).encode())
    except OSError as error:
        raise cannot_write(run, error) from None
    finally:
        for new in waiting.values():
            new.unlink(missing_ok=True)
    return list(waiting)
