"""Nothing read from disk or network can run code: no call that unpickles, and malicious files of every kind refused."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import fedunlearn
from fedunlearn.config import load_experiment
from fedunlearn.data import DataSettings, load_dataset
from fedunlearn.data.sources import base
from fedunlearn.errors import UserError
from fedunlearn.models.checkpoint import read_checkpoint
from fedunlearn.results import ContentCache
from fedunlearn.results.reading import read_table
from fedunlearn.results.vectors import read_vector
from fedunlearn.topology import load_file

SOURCES = sorted(Path(fedunlearn.__path__[0]).rglob("*.py"))
MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "jsonpickle",
    "pandas", "multiprocessing", "codeop", "code", "runpy", "imp", "tarfile",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.package", "np.fromfile", "numpy.fromfile", "np.loadtxt",
    "np.genfromtxt", "os.system", "os.popen", "subprocess.getoutput", "importlib.reload", "nx.read_gpickle",
    "np.core", "np.save", "np.ndarray.dump", "sklearn.externals",
}  # fmt: skip
IMPORTS_BY_NAME = {
    "__init__.py", "network/__init__.py", "flower/__init__.py", "network/declared.py", "unlearning/registry.py",
    "models/builders.py", "privacy/claims/__init__.py",
}  # fmt: skip
"""Where a module is imported by a name that is computed: lazy exports, and names from a table, settings or messages."""


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults_of(tree: ast.AST, where: str) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{where}:{node.lineno} imports {n}" for n in names if n.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name, keywords = dotted(node.func), {k.arg: k.value for k in node.keywords}
        if name in CALLS or name in METHODS or any(name.startswith(f"{m}.") for m in METHODS):
            found.append(f"{where}:{node.lineno} calls {name}")
        if name in ("np.load", "numpy.load"):
            allow = keywords.get("allow_pickle")
            if not (isinstance(allow, ast.Constant) and allow.value is False):
                found.append(f"{where}:{node.lineno} calls np.load without allow_pickle=False")
        if name.endswith("import_module") and where not in IMPORTS_BY_NAME:
            found.append(f"{where}:{node.lineno} imports a module by a name")
        if keywords.get("shell") is not None:
            found.append(f"{where}:{node.lineno} starts a shell")
        if name in ("json.loads", "json.load") and where not in JSON_OF_OUR_OWN:
            found.append(f"{where}:{node.lineno} parses JSON without fedunlearn.plain_text")
        if name in ("tomllib.loads", "tomllib.load") and where not in TOML_OF_OUR_OWN:
            found.append(f"{where}:{node.lineno} parses TOML without fedunlearn.plain_text")
    return found


JSON_OF_OUR_OWN = {"plain_text.py", "network/worker.py", "network/workers.py", "network/store.py",
                   "data/sources/femnist.py"}  # fmt: skip
"""Pipes to our own worker processes, tables in a host's own store, and LEAF's samples, whose reader catches it all."""
TOML_OF_OUR_OWN = {"plain_text.py", "results/run_directory.py"}


def test_no_source_calls_what_could_run_a_file():
    found = []
    for path in SOURCES:
        where = path.relative_to(fedunlearn.__path__[0]).as_posix()
        found += faults_of(ast.parse(path.read_text(encoding="utf-8")), where)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "torch.load(p)", "eval(x)", "np.load(p)", "np.load(p, allow_pickle=1)",
     "subprocess.run(x, shell=True)", "import_module(x)", "json.loads(x)", "import yaml"],
)  # fmt: skip
def test_the_walk_finds_what_it_looks_for(line):
    assert faults_of(ast.parse(line), "anything.py")


# --- malicious files -------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling one leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(read, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def every_reader(path: Path):
    shapes = {"w": (2, 2)}
    return {
        "npz": lambda: load_dataset(DataSettings(source="mnist", path=str(path))),
        "table": lambda: load_dataset(DataSettings(source="table", path=str(path))),
        "checkpoint": lambda: read_checkpoint(path, shapes),
        "vector": lambda: read_vector(path),
        "json": lambda: read_table(path, "x"),
        "toml": lambda: load_experiment(path),
        "graph": lambda: load_file(str(path)),
    }


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".safetensors", ".json", ".toml", ".graphml", ".txt"])
def test_a_pickle_under_any_name_is_refused_and_not_run(folder, suffix):
    path, trace = folder / f"file{suffix}", folder / "was-here"
    pickles = [pickle.dumps(Bomb(trace))]
    objects = io.BytesIO()
    np.savez(objects, images=np.array([Bomb(trace)], dtype=object), labels=np.array([0]))
    saved = io.BytesIO()
    torch.save({"w": Bomb(trace)}, saved)
    for content in [*pickles, objects.getvalue(), saved.getvalue()]:
        path.write_bytes(content)
        for read in every_reader(path).values():
            refused(read)
    assert not trace.exists()
    pickle.loads(pickles[0])  # the bomb is one
    assert trace.exists()


def test_a_cache_entry_that_is_a_pickle_is_no_entry(folder):
    (folder / "k.safetensors").write_bytes(pickle.dumps(Bomb(folder / "was-here")))
    assert ContentCache(folder).get("k") is None and ContentCache(folder).part("k", "x") is None
    assert not (folder / "was-here").exists()


ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
LAUGHS = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "ha">{ENTITIES}]><graphml>&e11;</graphml>'
FILES = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><graphml>&f;</graphml>'


@pytest.mark.parametrize("text", [LAUGHS, FILES, "<a>" * 100_000, "<graphml>" + "<graph/>" * 3])
def test_xml_that_expands_or_reads_files_or_is_deep(folder, text):
    (folder / "g.graphml").write_text(text)
    refused(lambda: load_file("g.graphml"), "g.graphml", "is not valid GraphML")


def npy_header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def safetensors_header(shape: list[int], dtype: str = "F32", length: int | None = None) -> bytes:
    size = int(np.prod(shape, dtype=object)) * 4
    text = json.dumps({"theta": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * 64


GIANTS = {
    "shape.npz": lambda p: zipped(p, images=npy_header((10**12, 28, 28)) + b"\0" * 99, labels=npy_header((1,)) + b"\0"),
    "negative.npz": lambda p: zipped(p, images=npy_header((-1, 28, 28)), labels=npy_header((1,)) + b"\0"),
    "code.npz": lambda p: zipped(p, images=npy_header((1,), "|O")),
    "header.npz": lambda p: zipped(p, images=b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000),
    "shape.safetensors": lambda p: p.write_bytes(safetensors_header([2**40, 2**20])),
    "short.safetensors": lambda p: p.write_bytes(safetensors_header([10**6])),
    "long.safetensors": lambda p: p.write_bytes(safetensors_header([4], length=2**62)),
    "other.safetensors": lambda p: p.write_bytes(safetensors_header([4], "BF16")),
    "deep.json": lambda p: p.write_text('{"a":' * 100_000),
    "wide.json": lambda p: p.write_text('{"schema": ' + "9" * 100_000 + "}"),
    "nan.json": lambda p: p.write_text('{"schema": NaN}'),
    "deep.toml": lambda p: p.write_text("a = " + "[" * 50_000),
    "dots.toml": lambda p: p.write_text("a." * 2_000 + "b = 1"),
    "wide.toml": lambda p: p.write_text("seed = " + "9" * 100_000),
    "nodes.toml": lambda p: p.write_text("nodes = 999999999999\nedges = []"),
}  # fmt: skip

READ = """
import resource, sys
from pathlib import Path
from fedunlearn.errors import UserError
from tests.fuzz.test_nothing_is_unpickled import every_reader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[1:]):
    for name, read in every_reader(path).items():
        try:
            read()
        except UserError as error:
            assert chr(10) not in str(error)
        else:
            sys.exit(f"{path} was read as {name}")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_huge_shapes_bombs_and_depths_cost_no_memory(folder):
    """All of them, with every reader, in one process of its own; its memory must not grow by more than 200 MB."""
    for name, write in GIANTS.items():
        write(folder / name)
    done = subprocess.run(
        [sys.executable, "-c", READ, *(str(folder / name) for name in GIANTS)],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 200_000, f"{int(done.stdout)} kB"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


def test_bombs_are_not_unpacked(folder, monkeypatch):
    monkeypatch.setattr(base, "_HARMLESS", 1 << 20)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0" * (4 << 20), 1))
    refused(lambda: load_dataset(DataSettings(source="mnist", path=str(folder))), "unpacks to more than")
    zipped(folder / "bomb.npz", images=npy_header((2**12, 28, 28)) + b"\0" * (2**12 * 784))
    refused(lambda: load_dataset(DataSettings(source="mnist", path="bomb.npz")), "bomb.npz", "times its size")


def test_an_archive_that_says_it_holds_more_than_the_memory(folder, monkeypatch):
    zipped(folder / "big.npz", images=npy_header((2**12, 28, 28)) + b"\0" * (2**12 * 784))
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    refused(lambda: load_dataset(DataSettings(source="mnist", path="big.npz")), "more than this machine's memory")


def test_a_link_out_of_the_folder_is_refused_as_data_graph_and_model(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("label,x\n1,2\n")
    for name, read in (
        ("d.csv", lambda: DataSettings(source="table", path="d.csv")),
        ("g.edgelist", lambda: load_file("g.edgelist")),
        ("m.safetensors", lambda: read_checkpoint("m.safetensors", {"w": (1,)})),
    ):
        (folder / name).symlink_to(outside / "secret")
        with pytest.raises((UserError, ValueError), match="symbolic link"):
            read()
