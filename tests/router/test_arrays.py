"""Files of arrays, whole and broken."""

from pathlib import Path

import numpy as np
import pytest

from smallfirst.router.arrays import read_arrays


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "a.npz", one=np.arange(1000), two=np.array(["x"]))
    return tmp_path / "a.npz"


def test_arrays_are_read_by_name(whole: Path) -> None:
    found = read_arrays(whole)
    assert (list(found), found["one"].sum(), found["two"].tolist()) == (["one", "two"], 499_500, ["x"])


@pytest.mark.parametrize("part", [0, 5, 100, -1, -40])
def test_a_part_of_a_file_is_a_value_error(whole: Path, part: int) -> None:
    whole.write_bytes(whole.read_bytes()[:part])
    with pytest.raises(ValueError, match=r"\w"):
        read_arrays(whole)


@pytest.mark.parametrize("at", range(60, 400, 20))
def test_changed_bytes_are_a_value_error_or_change_nothing(whole: Path, at: int) -> None:
    good = read_arrays(whole)
    data = bytearray(whole.read_bytes())
    data[at : at + 4] = b"\xff\x00\xff\x00"
    whole.write_bytes(data)
    try:
        found = read_arrays(whole)
    except ValueError:
        return
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in good.items()
    }


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", harm=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(tmp_path / "a.npz")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz")
