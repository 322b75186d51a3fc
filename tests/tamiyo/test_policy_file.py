"""Whatever is given out as a policy of the graph network: a network, or a refusal in words."""

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.tamiyo.errors import CorruptPolicyError, GraphMismatchError
from esper_async.tamiyo.graph.features import FEATURES_VERSION, schema_digest
from esper_async.tamiyo.network.policy_file import unpack_policy
from esper_async.tamiyo.network.policy_network import NetworkForm
from esper_async.tamiyo.policy_header import PolicyHeader, checksum_of

pytestmark = pytest.mark.filterwarnings("ignore")  # damaged bytes have torch warn of this and that


def forged(payload: bytes, form: dict[str, Any] | None = None) -> bytes:
    """A file that says of itself what is right: whoever makes one can have that."""
    found = NetworkForm().to_json() if form is None else form
    header = PolicyHeader("x", FEATURES_VERSION, schema_digest(), found, checksum_of(payload))
    return header.line() + payload


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "payload",
    [b"", b"no tensors", saved([1]), saved({"a": 1}), saved({1: torch.zeros(2)}), saved("x")],
    ids=["nothing", "text", "a list", "numbers", "odd names", "a text"],
)
def test_a_file_with_something_else_for_weights_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptPolicyError, match="its weights do not fit its own form"):
        unpack_policy(forged(payload), "x")


@pytest.mark.parametrize("form", [{"nonsense": 1}, {"hidden": "x"}, {"heads": 0}, {"hidden": -1}])
def test_a_form_that_no_network_has_is_refused(form: dict[str, Any]) -> None:
    with pytest.raises(CorruptPolicyError):
        unpack_policy(forged(saved({}), form), "x")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | st.text('{}[]:,"0eformat-policy1', max_size=80).map(str.encode))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises((CorruptPolicyError, GraphMismatchError)):
        unpack_policy(content, "x")
    with pytest.raises(CorruptPolicyError):
        unpack_policy(forged(content, {"layers": 1}), "x")
