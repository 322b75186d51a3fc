"""Whatever a file holds that is said to be TOML: a document, or a refusal in words."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_async.runtime.strict_model import ConfigurationError
from esper_async.runtime.toml_file import read_toml

_TOKENS = st.sampled_from(
    ["a", "=", "[", "]", "{", "}", '"', "'", "\n", ".", ",", "1", "-", ":", "T", "nan", "\\", "#"]
)


@pytest.mark.parametrize(
    "content",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a = " * 100_000,
        "a = " + "9" * 100_000,
        "a = 1979-99-99",
        "a = \0",
    ],
    ids=["brackets", "braces", "digits", "no date", "a nought byte"],
)
def test_what_is_not_toml_is_refused_and_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(content)
    with pytest.raises(
        ConfigurationError, match=r"odd\.toml is not right:\n  it is not valid TOML"
    ):
        read_toml(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="it cannot be read: Is a directory"):
        read_toml(tmp_path)


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=100) | st.lists(_TOKENS, max_size=60).map(lambda t: "".join(t).encode()))
def test_any_bytes_are_a_document_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    try:
        assert isinstance(read_toml(path), dict)
    except ConfigurationError as error:
        assert "it is not valid TOML" in error.problems[0]
