"""The documents keep their word: examples run, links lead somewhere, named tests exist, settings are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from fedunlearn.config import load_experiment
from fedunlearn.unlearning import registry
from fedunlearn.validation import written

PROJECT = Path(__file__).resolve().parents[1]
DOCS = sorted(
    p for p in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("topologies/*.md")) if p.is_file()
)
NAMES = [str(p.relative_to(PROJECT)) for p in DOCS]
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|home|root|Users|tmp|opt|mnt|media)/|[A-Z]:\\\\")


@cache
def text(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """Return the fenced blocks of a language, also those inside lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text(name), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets on GitHub."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def test_the_documents_are_there():
    assert {"README.md", "CHANGELOG.md"} <= set(NAMES)
    rooms = (
        "accounting", "architecture", "audit", "certificates", "comparison", "data", "evaluation", "influence",
        "measures", "methods", "reproductions", "results", "scope", "topologies",
    )  # fmt: skip
    assert {f"docs/{room}.md" for room in rooms} <= set(NAMES)


def test_the_python_example_of_the_readme_runs():
    (example,) = blocks("README.md", "python")
    assert len(example.strip().splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", example], cwd=PROJECT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "certified: 1.0 1e-05 valid: True" in done.stdout
    distance, bound = map(float, re.findall(r"retraining (\S+), proved: (\S+)", done.stdout)[0])
    assert 0 < distance <= bound


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    content = re.sub(r"^( *)```.*?^\1```", "", text(name), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", content):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, fragment = target.partition("#")
        file = (PROJECT / name).parent / path if path else PROJECT / name
        assert file.exists(), f"{name}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert fragment in map(anchor, headings), f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_no_document_names_a_path_of_some_machine(name):
    found = MACHINE_PATHS.search(text(name))
    assert found is None, f"{name}: {found}"


@pytest.mark.parametrize("name", NAMES)
def test_tests_that_documents_name_exist(name):
    for file, function in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text(name)):
        source = (PROJECT / file).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, f"{name}: {file}::{function}"


EXPERIMENTS = ("*.toml", *(f"{folder}/*.toml" for folder in ("influence", "hosts", "requests", "faults", "scale")))
TRAINING_ALONE = {"train", "yardstick"}
NAMED_SWEEPS = {PROJECT / "simulations" / f"{name}.toml" for name in ("certified_comparison", "influence_map")}
"""Sweeps that stand among the experiments."""


@pytest.mark.parametrize(
    "file",
    sorted({file for at in EXPERIMENTS for file in (PROJECT / "simulations").glob(at)} - NAMED_SWEEPS),
    ids=lambda p: p.name,
)
def test_every_simulation_loads(file):
    assert bool(load_experiment(file).requests) == (file.stem not in TRAINING_ALONE)


@pytest.mark.parametrize(
    "file", [*sorted((PROJECT / "simulations" / "sweeps").glob("*.toml")), *sorted(NAMED_SWEEPS)], ids=lambda p: p.name
)
def test_every_sweep_loads(file):
    from fedunlearn.sweep import load_sweep

    assert load_sweep(file).points


@pytest.mark.parametrize("block", blocks("docs/methods.md", "toml")[:2])
def test_toml_examples_of_the_methods_load(block, tmp_path):
    file = tmp_path / "example.toml"
    file.write_text(block)
    experiment = load_experiment(file)
    assert experiment.unlearning.method == "newton"


@pytest.mark.parametrize("method", sorted(registry.methods()))
def test_every_setting_of_a_method_is_documented_with_its_default(method):
    sections = re.split(r"^## ", text("docs/methods.md"), flags=re.MULTILINE)
    mine = "".join(s for s in sections if s.startswith(f"`{method}`"))
    assert mine
    for key, field in registry.settings_for(method).model_fields.items():
        default = "not set" if field.default is None else written(field.default)
        assert re.search(rf"^\| `{key}` \| `?{re.escape(default)}`? \|", mine, re.MULTILINE), key


def test_every_generator_and_mixing_rule_is_documented():
    from typing import get_args

    from fedunlearn.topology.settings import Generator, Mixing

    for name in (*get_args(Generator), *get_args(Mixing)):
        assert f"`{name}`" in text("docs/topologies.md"), name


@pytest.mark.parametrize("name", NAMES)
def test_experiments_that_documents_name_exist(name):
    for path in re.findall(r"\b(?:simulations|topologies)/[\w/-]+\.\w+", text(name)):
        assert (PROJECT / path).is_file(), f"{name}: {path}"
