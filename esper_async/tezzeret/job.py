"""One piece of the forge's work, and the states it goes through."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum

from esper_async.kasmina.compiling.kernel_record import Strategy
from esper_async.kasmina.interface import SiteInterface


class JobKind(StrEnum):
    """SURVEY: find which blueprints fit an interface; PROVE: certify one of them there.

    COMPILE: make its passes faster for one batch size, if that can be done.
    """

    SURVEY = "survey"
    PROVE = "prove"
    COMPILE = "compile"


class JobState(StrEnum):
    """QUEUED and RUNNING are open; the others are final and never repeated."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


class Priority(IntEnum):
    """Lower goes first: what a live run waits for, what is faster for it, what it may ask for."""

    LIVE = 0
    SURVEY = 10
    COMPILE = 15
    BACKGROUND = 20


@dataclass(frozen=True, slots=True)
class Compile:
    """For which batch size and torch threads to compile, and how much to try.

    `why` is what made the forge step down so far.
    """

    batch: int
    threads: int
    strategy: Strategy = Strategy.STANDARD
    why: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done: everything that the result depends on, and nothing else.

    `fingerprint` stands for the torch version and the source of kernels and proof: other code is
    other work.
    """

    kind: JobKind
    interface: SiteInterface
    fingerprint: str
    blueprint: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    compile: Compile | None = None

    @property
    def id(self) -> str:
        """The same for the same work, for ever."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """One line with sorted keys; only a COMPILE says what it compiles for."""
        fields: dict[str, object] = {
            "kind": self.kind,
            "interface": interface_to_dict(self.interface),
            "fingerprint": self.fingerprint,
            "blueprint": self.blueprint,
            "settings": dict(self.settings),
            "device": self.device,
        }
        if self.compile is not None:
            fields["compile"] = asdict(self.compile)
        return json.dumps(fields, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Work":
        """Read back what `to_json` wrote. Raises ValueError, KeyError."""
        fields = json.loads(text)
        wanted = fields.get("compile")  # only a COMPILE has it
        if wanted is not None:
            wanted = Compile(**{**wanted, "strategy": Strategy(wanted["strategy"])})
        return cls(
            kind=JobKind(fields["kind"]),
            interface=interface_from_dict(fields["interface"]),
            fingerprint=fields["fingerprint"],
            blueprint=fields["blueprint"],
            settings=fields["settings"],
            device=fields["device"],
            compile=wanted,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """Work in the queue. `key` is the certificate's, once done; times are Unix seconds."""

    work: Work
    state: JobState
    priority: int
    attempts: int
    key: str
    error: str
    elapsed_ms: float | None

    @property
    def id(self) -> str:
        """The id of its work."""
        return self.work.id


@dataclass(frozen=True, slots=True)
class Answer:
    """A request whose job has come to an end and that has not been told so yet."""

    request_id: str
    run_id: str
    job: Job


def interface_to_dict(interface: SiteInterface) -> dict[str, object]:
    """The interface as JSON-able fields."""
    return {
        "kind": interface.kind,
        "shape": list(interface.shape),
        "dtype": interface.dtype,
        "layout": interface.layout,
    }


def interface_from_dict(fields: Mapping[str, object]) -> SiteInterface:
    """Read back `interface_to_dict`. Raises KeyError, TypeError, ValueError."""
    shape = fields["shape"]
    if not isinstance(shape, list | tuple):
        raise TypeError(f"the shape of an interface is a list, not {shape!r}")
    return SiteInterface(
        kind=fields["kind"],  # type: ignore[arg-type]  # checked by the class itself
        shape=tuple(int(size) for size in shape),
        dtype=str(fields["dtype"]),
        layout=fields["layout"],  # type: ignore[arg-type]
    )
