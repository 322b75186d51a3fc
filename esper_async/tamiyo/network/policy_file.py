"""A policy's weights on disk, behind the header of `policy_header`; nothing is unpickled."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper_async.runtime.files import write_atomically
from esper_async.runtime.tensor_file import read_tensors
from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.graph.features import FEATURES_VERSION, schema_digest
from esper_async.tamiyo.network.policy_network import NetworkForm, PolicyNetwork
from esper_async.tamiyo.policy_header import (
    PolicyHeader,
    checksum_of,
    read_verified,
    verify_content,
)


def save_policy(
    network: PolicyNetwork, path: Path, *, name: str, lineage: Mapping[str, Any]
) -> PolicyHeader:
    """Write a policy in half precision; the same weights and lineage give the same bytes.

    Returns its header, whose version is `name` and the beginning of the weights' checksum.
    """
    buffer = io.BytesIO()
    torch.save({key: tensor.half() for key, tensor in network.state_dict().items()}, buffer)
    payload = buffer.getvalue()
    checksum = checksum_of(payload)
    header = PolicyHeader(
        version=f"{name}+{checksum[:12]}",
        features=FEATURES_VERSION,
        schema=schema_digest(),
        form=network.form.to_json(),
        checksum=checksum,
        lineage=dict(lineage),
    )
    write_atomically(path, header.line() + payload)
    return header


def load_policy(path: Path) -> tuple[PolicyNetwork, PolicyHeader]:
    """Return a policy's network in evaluation mode, and its header.

    Raises:
        CorruptPolicyError: it is no policy's file, or was changed since it was written.
        GraphMismatchError: it was trained for other features.
        FileNotFoundError: there is none.
    """
    return _network_of(*read_verified(path), str(path))


def unpack_policy(content: bytes, name: str) -> tuple[PolicyNetwork, PolicyHeader]:
    """Return the network and the header in what a policy's file holds; `name` is for messages.

    Raises:
        CorruptPolicyError, GraphMismatchError: as `load_policy`.
    """
    return _network_of(*verify_content(content, name), name)


def _network_of(
    header: PolicyHeader, payload: bytes, name: str
) -> tuple[PolicyNetwork, PolicyHeader]:
    try:
        network = PolicyNetwork(NetworkForm(**header.form))
        halves: dict[str, Tensor] = read_tensors(io.BytesIO(payload))
        weights = {key: tensor.float() for key, tensor in halves.items()}
        network.load_state_dict(weights, strict=True)
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise CorruptPolicyError(f"{name}: its weights do not fit its own form: {error}") from error
    return network.eval(), header
