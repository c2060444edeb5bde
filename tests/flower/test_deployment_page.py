"""docs/deployment.md, executed as it is written: every command of every section, in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.deployment

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "deployment.md"
SECTIONS = {
    "Local": "runs/deployment-*",
    "Ray": "runs/deployment-*",
    "Ray on several machines": "runs/deployment-*",
    "A deployment by one command": "runs/deployed",
    "By hand, on two machines": "runs/pilot",
    "Data that stay where they are": "runs/pilot-parts",
}
"""Sections with commands, in their order, and the folder that each ends with."""


def commands() -> dict[str, list[str]]:
    """Return the blocks of commands of every section; one with ``...`` shows what changes in another."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        blocks: list[str] = re.findall(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        if runnable := [block for block in blocks if " ... " not in block]:
            found[section.splitlines()[0]] = runnable
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a user has after a clone, without any results."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("fedunlearn", "simulations", "topologies", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_page_has_these_sections_with_commands() -> None:
    assert list(commands()) == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_as_it_is_written(section: str, project: Path) -> None:
    before = set(project.glob("runs/*"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = "set -eo pipefail\n" + "\n".join(commands()[section])
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=project, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        told, _ = process.communicate(timeout=900)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if section == "Ray on several machines":
            subprocess.run(["ray", "stop"], env=environment, capture_output=True)  # as the page says
    assert process.returncode == 0, told[-3000:]
    made = [path for path in project.glob(SECTIONS[section]) if path not in before]
    assert len(made) == 1, told[-3000:]
    assert json.loads((made[0] / "summary.json").read_text())["hosts"]["count"] == 2
