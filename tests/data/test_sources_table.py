"""One's own tables, as CSV and npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedunlearn.data import DataSettings, Role, load_dataset
from fedunlearn.data.sources import load_source
from fedunlearn.errors import UserError

HEADER = "age,site,height,label"


def write_csv(path: Path, lines: list[str], header: str = HEADER) -> str:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8-sig")
    return str(path)


def people(n: int = 30) -> list[str]:
    return [f"{20 + i},s{i % 3},{1.5 + i / 100},{'ill' if i % 2 else 'well'}" for i in range(n)]


def test_csv_with_clients(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "people.csv", people())
    data = load_dataset(DataSettings(source="table", path=path, client="site"))
    assert data.inputs.dtype == np.float32 and data.input_shape == (2,)
    assert data.client_names == ("s0", "s1", "s2") and data.class_names == ("ill", "well")
    assert data.roles.tolist() == [Role.TRAIN, Role.NEVER_MEMBER, Role.PUBLIC]
    assert np.array_equal(data.inputs[:2], np.array([[20, 1.5], [23, 1.53]], np.float32))
    assert data.labels[:2].tolist() == [1, 0] and data.is_test.sum() == 3


def test_csv_without_clients_and_with_its_own_split(tmp_path: Path) -> None:
    lines = [f"{line},{'test' if i % 5 == 0 else 'train'}" for i, line in enumerate(people(100))]
    lines = [line.replace(",s", ",") for line in lines]
    path = write_csv(tmp_path / "people.csv", lines, HEADER + ",split")
    data = load_dataset(DataSettings(source="table", path=path, clients=4, partition="dirichlet", alpha=5.0))
    assert data.input_shape == (3,) and data.num_clients == 6 and data.is_test.sum() == 20


@pytest.mark.parametrize(
    ("lines", "header", "sentence"),
    [
        (["1,s0,nan,a"], HEADER, "line 2, column 'height' holds nan, not a finite number"),
        (["1,s0,2,a", "1,s0,1e60,a"], HEADER, "line 3, column 'height' holds 1e60, not a finite number"),
        (["1,s0,,a"], HEADER, "line 2, column 'height' holds '', not a number"),
        (["1,s0,2"], HEADER, "line 2 has 3 fields, the header 4"),
        (["1,s0,2,"], HEADER, "'label' is empty for sample 0"),
        ([], HEADER, "holds no sample"),
        (["1,s0,2,a"], "age,site,height,lable", "data.label = 'label' is not in .*, did you mean 'lable'"),
        (["1,s0,2,a"], "age,site,age,label", "names the column 'age' twice"),
        (["s0,a"], "site,label", "has no feature column beside site, label"),
        (["1,s0,2,a,later"], HEADER + ",split", "'split' holds 'later' at place 0"),
    ],
)
def test_csv_faults(tmp_path: Path, lines: list[str], header: str, sentence: str) -> None:
    path = write_csv(tmp_path / "t.csv", lines, header)
    with pytest.raises(UserError, match=sentence):
        load_dataset(DataSettings(source="table", path=path, client="site"))


def test_files_that_are_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00label")
    with pytest.raises(UserError, match="not a readable CSV file"):
        load_dataset(DataSettings(source="table", path=str(tmp_path / "t.csv")))
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(UserError, match="found: nothing"):
        load_dataset(DataSettings(source="table", path=str(tmp_path / "empty.csv")))
    (tmp_path / "t.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"ends in '.xlsx'"):
        load_dataset(DataSettings(source="table", path=str(tmp_path / "t.xlsx")))
    path = write_csv(tmp_path / "same.csv", people())
    with pytest.raises(UserError, match="both name 'label'"):
        load_dataset(DataSettings(source="table", path=path, client="label"))


def npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_npz_of_rows_and_of_images(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2, 3))
    path = npz(tmp_path / "t.npz", measurements=rows, y=np.arange(40) % 2 + 5.0, who=np.arange(40) // 10)
    source = load_source(DataSettings(source="table", path=path, label="y", client="who"))
    assert np.array_equal(source.inputs, rows.reshape(40, 6).astype(np.float32))
    assert source.class_names == ("5", "6") and source.client_names == ("0", "1", "2", "3")
    images = np.arange(40 * 9, dtype=np.uint16).astype(np.uint8).reshape(40, 3, 3)
    path = npz(
        tmp_path / "i.npz", images=images, label=np.arange(40) % 2 * 2, classes=np.array(["a", "b", "c"]), more=rows
    )
    source = load_source(DataSettings(source="table", path=path))
    assert np.array_equal(source.inputs, images) and source.inputs.dtype == np.uint8
    assert source.class_names == ("a", "b", "c") and source.labels.tolist() == [0, 2] * 20


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.array([[1.0, np.inf], [0, 0]])}, "row 0, column 1 that is not a finite number"),
        ({"x": np.zeros((3, 2))}, r"'label' should have shape \(3,\) like 'x'"),
        ({"x": np.array(["a", "b"])}, "should be numbers"),
        ({"p": np.zeros((2, 2)), "q": np.zeros((2, 2))}, "has no array 'inputs' for the features"),
        ({"x": np.zeros((2, 2)), "label": np.array([0.5, 1])}, "'label' holds a value that is not a whole number"),
        ({"x": np.zeros((2, 2)), "classes": np.array(["only"])}, "has the label '1', which its 'classes' do not name"),
    ],
)
def test_npz_faults(tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    path = npz(tmp_path / "t.npz", **{"label": np.array([0, 1])} | arrays)
    with pytest.raises(UserError, match=sentence):
        load_dataset(DataSettings(source="table", path=path, clients=1))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    settings = DataSettings(source="table", path=write_csv(tmp_path / "t.csv", people(60)), clients=3, label="label")
    settings = settings.model_copy(update={"client": "site", "clients": None})
    first = load_dataset(settings)
    assert load_dataset(settings) is first
    write_csv(tmp_path / "t.csv", people(90))
    assert len(load_dataset(settings).labels) == 90
