"""``evaluation.json``: what the battery found out about a finished run, with its schema.

The classes below are the documentation too (docs/evaluation.md). Every table may hold further entries, which readers
should ignore; a null says that a number does not exist.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fedunlearn.errors import UserError
from fedunlearn.results.fields import Entry, fitted
from fedunlearn.results.reading import read_table

SCHEMA: Literal["fedunlearn/evaluation/1"] = "fedunlearn/evaluation/1"
TABLE_SCHEMA = "fedunlearn/evaluation-table/1"
EVALUATION, EVALUATION_TABLE = "evaluation.json", "evaluation.csv"
COLUMNS = ("original", "unlearned", "retrained", "control")
"""The models that a measure may be given for, in the order in which they are shown."""
CSV_FIELDS = ("section", "measure", "model", "value", "low", "high", "samples")

Levels = Literal["quick", "standard", "full"]
Sections = Literal[
    "membership", "shadows", "distance", "populations", "relearning", "backdoor", "network", "side effects"
]
Numbers = list[float | None]


class RunEntry(Entry):
    """The run that was evaluated."""

    name: str = Field(description="name of the experiment")
    seed: int = Field(description="seed of the experiment")
    method: str = Field(description="unlearning method")
    requests: list[str] = Field(description="what was asked, in the order of answering; the last one is evaluated")
    settings_sha256: str = Field(description="hash of the run's settings.toml")


class EstimateEntry(Entry):
    """A number and its 95 % interval."""

    value: float = Field(description="the number")
    low: float | None = Field(default=None, description="lower end of its interval; null: none is known")
    high: float | None = Field(default=None, description="upper end")


class MeasureEntry(Entry):
    """One number of up to four models; a null says that a model has no such number."""

    name: str = Field(description="what is measured, with its direction: `…_forget_below_test`")
    section: Sections = Field(description="where it is printed")
    reads: str = Field(description="one sentence: what it means, and which value says that nothing is left")
    original: EstimateEntry | None = Field(default=None, description="before the request was answered")
    unlearned: EstimateEntry | None = Field(default=None, description="after it was answered")
    retrained: EstimateEntry | None = Field(default=None, description="trained again without the deleted data")
    control: EstimateEntry | None = Field(
        default=None, description="retrained with another seed: how much of the number is chance of training"
    )
    samples: dict[str, int] = Field(default={}, description="how many of what it rests on")


class RefusalEntry(Entry):
    """A number that is not given."""

    name: str = Field(description="what would have been measured")
    section: Sections = Field(description="where it would have been printed")
    reason: str = Field(description="one sentence: why not, and what it would take")


class RocEntry(Entry):
    """One attack's errors at every threshold."""

    attack: str = Field(description="name of the attack")
    label: str = Field(description="the attack as figures name it")
    group: str = Field(description="panel of the figure")
    positives: str = Field(description="what a found member is: a model and a set of samples")
    negatives: str = Field(description="what a false alarm is")
    fpr: list[float] = Field(description="false positive rates, ascending; all points near 0 are kept")
    tpr: list[float] = Field(description="true positive rates")
    auc: float = Field(description="area under the curve of all points")
    smallest_fpr: float = Field(description="one false alarm among all negatives: nothing below can be resolved")


class RelearningEntry(Entry):
    """Loss on the forget set while it is learned again."""

    steps: list[int] = Field(description="numbers of steps")
    target_loss: float = Field(description="the loss that counts as learned again")
    loss: dict[str, Numbers] = Field(description="mean loss after so many steps, by model")


class NetworkEntry(Entry):
    """What every node still holds. All lists by node have N entries, null for whoever is not there."""

    client: int | None = Field(description="the node whose data were deleted; null: a class, of which many had samples")
    nodes: int = Field(description="number N of nodes")
    edges: list[Any] = Field(description="pairs of neighbours before any departure")
    hops: list[Any] = Field(description="graph distance of each node to the client; null: no path")
    per_node: dict[str, list[Any]] = Field(
        description="by node: `distance_…` to the node's retrained counterpart, `forget_accuracy_…`, "
        "`membership_auc_…` (chance that a forgotten sample has a smaller loss there than under the counterpart), each "
        "`before` and `after` the answer, of the `retrained` network, or the `floor` between two retrainings; "
        "`predicted` influence, scaled to the mean distance before; `view_epsilon`, `view_reason`: what a neighbour's "
        "view still reveals; `learned_from_both`: what those learn who kept their model"
    )
    by_hop: dict[str, Numbers] = Field(description="`hop`, `count` of nodes there, and the means of the above")
    rounds: dict[str, Any] | None = Field(
        default=None, description="the same by `hop` in each `round` of training; null: not followed"
    )
    recovery: dict[str, Any] | None = Field(
        default=None,
        description="accuracy in rounds of training after the answer, beside that of the retrained network",
    )
    consensus: dict[str, float | None] | None = Field(
        default=None, description="root mean square distance of the nodes to their mean"
    )


class CurvesEntry(Entry):
    """Tables of plain numbers behind the figures; each may be missing."""

    roc: list[RocEntry] | None = Field(default=None, description="ROC curves of the attacks")
    relearning: RelearningEntry | None = Field(default=None, description="learning the forget set again")
    network: NetworkEntry | None = Field(default=None, description="the deletion seen from every node")


class JudgementEntry(Entry):
    """What one of the measures that were named in advance says ([why only these](#what-stands-out))."""

    measure: str = Field(description="its name")
    verdict: Literal["stands out", "not told apart", "cannot tell"] = Field(
        description="whether the answer is told from retraining by it; `cannot tell`: the rule does not even see the "
        "original"
    )
    grade: Literal["models", "one seed"] = Field(
        description="`models`: the number covers chance over models or writers; `one seed`: one control is all there is"
    )
    memory: bool | None = Field(description="whether it stands out on the side of the original; null: not to be said")
    sentence: str = Field(description="why")


class EvaluationEntry(Entry):
    """A whole evaluation."""

    schema_: Literal["fedunlearn/evaluation/1"] = Field(default=SCHEMA, alias="schema", description="this version")
    battery: Levels = Field(description="how thoroughly was measured")
    run: RunEntry = Field(description="the run")
    settings: dict[str, Any] = Field(description="settings of the battery, defaults included")
    samples: dict[str, int] = Field(description="size of each set of samples")
    measures: list[MeasureEntry] = Field(description="the numbers")
    judgements: list[JudgementEntry] = Field(description="what the measures named in advance say, one a section")
    refusals: list[RefusalEntry] = Field(description="the numbers that are not given")
    curves: CurvesEntry = Field(description="what the figures show")
    seconds: dict[str, float] = Field(description="wall-clock seconds of each step")
    retold: dict[str, Any] | None = Field(
        default=None, description="how well the run told again agrees with the run; null: only its models were read"
    )
    cached: list[str] = Field(
        description="keys of the trainings in the cache that saw deleted samples, this run's or others'; shadow models "
        "are among them, unless the run's noise is secret"
    )
    versions: dict[str, str] = Field(description="Python, this package and the libraries that decide numbers")


def check_evaluation(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation as plain JSON values that fit the schema, with its name first and defaults filled in.

    Raises:
        ValueError: naming the first entry that is missing or of the wrong kind.
    """
    found = fitted(EvaluationEntry, {"schema": SCHEMA, **table}, EVALUATION)
    found["curves"] = {name: curve for name, curve in found["curves"].items() if curve is not None}
    return found


def read_evaluation(run: Path | str) -> dict[str, Any] | None:
    """Return the evaluation of a run directory, or None where there is none.

    Raises:
        UserError: if the file cannot be read or is not an evaluation of this version.
    """
    file = Path(run) / EVALUATION
    if not file.exists():
        return None
    try:
        return check_evaluation(read_table(file, SCHEMA))
    except ValueError as error:
        raise UserError(f"{file.parent}/{error}") from None


def evaluation_csv(evaluation: Mapping[str, Any]) -> str:
    """Return the measures as tidy CSV: a comment with the schema, the column names, one row a measure and model.

    Values have as many digits as it takes to read back the same float64; an end of an interval that is not known is
    empty; samples are written as ``forget=148 test=399``.
    """
    text = io.StringIO()
    text.write(f"# schema: {TABLE_SCHEMA}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for measure in evaluation["measures"]:
        samples = " ".join(f"{name}={count}" for name, count in measure["samples"].items())
        for model in COLUMNS:
            if (entry := measure[model]) is not None:
                ends = ["" if entry[end] is None else repr(float(entry[end])) for end in ("low", "high")]
                row = [measure["section"], measure["name"], model, repr(float(entry["value"])), *ends, samples]
                writer.writerow(row)
    return text.getvalue()
