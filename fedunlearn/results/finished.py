"""Is a folder the finished run that it was named for? If not, one sentence says what it is instead."""

from __future__ import annotations

import re
from pathlib import Path

from fedunlearn.errors import UserError, nearest
from fedunlearn.plain_text import parse_json
from fedunlearn.results.reading import Run, read_run
from fedunlearn.results.run_names import FAILURE, is_run

_PARTIAL = re.compile(r"\.partial-[0-9a-f]+$")


def finished_run(path: Path | str, *, with_requests: bool = False) -> Run:
    """Return a finished run.

    Args:
        path: the folder of the run.
        with_requests: whether a run without deletion requests is refused too.

    Raises:
        UserError: one sentence, if there is no such folder, it is no run, the run failed or was never finished, it is
            of another schema version, or has no requests.
    """
    path = Path(path)
    if not path.exists():
        beside = (
            [str(other) for other in sorted(path.parent.glob("*")) if is_run(other)] if path.parent.is_dir() else []
        )
        raise UserError(f"'{path}': no such folder{nearest(str(path), beside)}")
    if not path.is_dir():
        raise UserError(f"'{path}': is a file (allowed: the folder of a finished run)")
    if (path / FAILURE).exists():
        raise UserError(
            f"'{path}': is a run that failed ({_reason(path)}); only a finished run can be read (go on with it by "
            f"fedunlearn run --resume {path})"
        )
    if _PARTIAL.search(path.resolve().name):
        raise UserError(
            f"'{path}': is a run that is still going on or was stopped; only a finished run can be read (if it was "
            f"stopped, go on with it by fedunlearn run --resume {path})"
        )
    run = read_run(path)
    if with_requests and not run.summary["requests"]:
        raise UserError(
            f"'{path}': is a run without deletion requests, so there is nothing that it should have forgotten"
        )
    return run


def _reason(path: Path) -> str:
    try:
        return str(parse_json((path / FAILURE).read_text(encoding="utf-8"))["error"]).strip().rstrip(".")
    except (OSError, ValueError, KeyError, TypeError):
        return "why is not written down"
