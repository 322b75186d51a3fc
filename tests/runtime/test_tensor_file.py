"""Whatever a file of tensors has become: tensors, or a refusal, and nothing of it is run."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.runtime.tensor_file import TensorFileError, read_tensors

pytestmark = pytest.mark.filterwarnings("ignore")  # damaged bytes have torch warn of this and that


def written(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


_WHOLE = written({"weights": {"a": torch.arange(6.0)}, "step": 3, "name": "x", "list": [1, None]})


class Program:
    """What unpickling would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_what_was_written_is_read_on_request_without_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(_WHOLE)
    for mapped in (False, True):
        assert read_tensors(path, mapped=mapped)["weights"]["a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_more_than_data_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    with pytest.raises(TensorFileError, match="no tensors that can be read"):
        read_tensors(io.BytesIO(written(Program(mark))))
    assert not mark.exists()


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "gone.pt")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_of_anything_else_are_refused(content: bytes) -> None:
    with pytest.raises(TensorFileError):
        read_tensors(io.BytesIO(content))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(_WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    st.none() | st.integers(0, len(_WHOLE)),
)
def test_a_damaged_file_is_read_or_refused(
    changes: list[tuple[int, int]], length: int | None
) -> None:
    content = bytearray(_WHOLE)
    for place, byte in changes:
        content[place] = byte
    try:
        read_tensors(io.BytesIO(bytes(content[:length])))
    except TensorFileError as error:
        assert "no tensors that can be read" in str(error)
