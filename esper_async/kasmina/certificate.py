"""Certificates: what was proved of a kernel at an interface, and with which code. Torch-free."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

CERTIFICATE_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a proof found about one blueprint at one interface.

    A pair is legal only while `passed`; `failures` say in words what did not hold. Quantities that
    a failed proof never reached are None: not measured, never zero. FLOPs and saved bytes are
    measured for one sample, times for a batch of `batch` samples on `threads` torch threads.
    """

    key: str
    blueprint_id: str
    blueprint_name: str
    output: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    settings: dict[str, int]
    device: str
    torch_version: str
    code_hash: str
    passed: bool
    failures: tuple[str, ...]
    gradient_exemption: str | None
    start_exemption: str | None
    gradient_steps: int | None = None
    start_distance: float | None = None
    parameter_count: int | None = None
    parameter_bytes: int | None = None
    forward_flops: int | None = None
    training_flops: int | None = None
    saved_bytes: int | None = None
    batch: int | None = None
    threads: int | None = None
    forward_ms: float | None = None
    training_ms: float | None = None
    proof_ms: float | None = None
    schema: int = CERTIFICATE_SCHEMA

    @property
    def forward_macs(self) -> int | None:
        """Multiply-accumulates of one sample's forward: half its FLOPs."""
        return None if self.forward_flops is None else self.forward_flops // 2

    def to_json(self) -> str:
        """Return the certificate as one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read back what `to_json` wrote.

        Raises:
            ValueError: it is no JSON object, of another schema, or lacks or adds a field.
        """
        record: Any = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError(f"a certificate is a JSON object, not {type(record).__name__}")
        if record.get("schema") != CERTIFICATE_SCHEMA:
            raise ValueError(
                f"a certificate of schema {record.get('schema')!r} cannot be read; this is "
                f"schema {CERTIFICATE_SCHEMA}: prove it again"
            )
        names = {field.name for field in fields(cls)}
        if names != set(record):
            odd = ", ".join(sorted(names ^ set(record)))
            raise ValueError(f"a certificate with missing or unknown fields: {odd}")
        record["shape"] = tuple(record["shape"])
        record["failures"] = tuple(record["failures"])
        return cls(**record)
