"""The versions of the graph policy that an installation has, and which of them decides. Torch-free.

A new version is verified, staged, asked beside the active one on live states without effect, and
only then activated, for runs that begin afterwards: a run that is under way keeps its own. One that
turns out worse is rolled back to the version before it. What happened to each version stays on
record. `shelf.json` is written whole, so that no death leaves half of a step.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from esper_async.runtime.files import write_json_atomically
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.policy_header import read_verified
from esper_async.tamiyo.shadow_tally import ShadowTally

State = Literal["staged", "ready", "active", "retired", "rejected"]
SHIPPED_VERSION = "shipped"
"""What decides where nothing else was activated: the file that comes with the program."""


class PolicyUpdateRefusedError(ValueError):
    """An update cannot be taken, or a version not be activated; the message says why."""


@dataclass(slots=True)
class Version:
    """One version: its file, where it stands, and what it did beside the active one."""

    version: str
    file: str
    state: State
    parent: str
    validation_id: str
    added_at: float
    shadow: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a version, at a Unix time in seconds."""

    at: float
    version: str
    what: str
    reason: str


@dataclass(slots=True)
class _Book:
    active: str = SHIPPED_VERSION
    previous: list[str] = field(default_factory=list)
    versions: dict[str, Version] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)


class PolicyShelf:
    """Keeps the versions of a policy in a folder. One process changes it at a time.

    Args:
        folder: where `shelf.json` and the files are.
        now: Unix time in seconds.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now
        self._book = self._read()

    @property
    def active(self) -> str:
        """The version that decides in runs that begin now; "shipped" for the program's own."""
        return self._book.active

    @property
    def versions(self) -> list[Version]:
        """Every version, oldest first."""
        return sorted(self._book.versions.values(), key=lambda version: version.added_at)

    @property
    def history(self) -> list[Event]:
        """What happened, oldest first."""
        return list(self._book.history)

    def path(self, version: str) -> Path | None:
        """Return a version's file; None for the one that comes with the program.

        Raises:
            PolicyUpdateRefusedError: there is no such version.
        """
        return None if version == SHIPPED_VERSION else self._folder / self._known(version).file

    def stage(self, file: Path, *, validation_id: str, parent: str | None = None) -> Version:
        """Verify a policy's file and take a copy of it; it decides nothing yet.

        Raises:
            PolicyUpdateRefusedError: it has no validation record, is there already, or its file
                cannot be used; the refusal is on record, too.
        """
        try:
            header, _ = read_verified(file)
        except (PolicyFileError, OSError) as error:
            self._tell(file.name, "refused", str(error))
            raise PolicyUpdateRefusedError(str(error)) from error
        if not validation_id:
            words = f"{header.version} has no validation record: it was never compared"
            self._tell(header.version, "refused", words)
            raise PolicyUpdateRefusedError(words)
        if header.version in self._book.versions:
            raise PolicyUpdateRefusedError(f"{header.version} is there already")
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{header.checksum}.policy"
        copied = self._folder / f".{name}"
        shutil.copyfile(file, copied)
        read_verified(copied)
        copied.replace(self._folder / name)
        staged = Version(
            header.version, name, "staged", parent or self.active, validation_id, self._now()
        )
        self._book.versions[header.version] = staged
        self._tell(header.version, "staged", f"validated by {validation_id}")
        return staged

    def next_in_shadow(self) -> Version | None:
        """Return the oldest version that waits to be asked beside the active one."""
        return next((each for each in self.versions if each.state == "staged"), None)

    def judge(self, version: str, tally: ShadowTally) -> bool:
        """Take in what a version did in the shadow; return whether it may be activated now.

        Raises:
            PolicyUpdateRefusedError: it is not staged.
        """
        known = self._known(version)
        if known.state != "staged":
            raise PolicyUpdateRefusedError(f"{version} is {known.state}, not staged")
        faults = tally.faults()
        known.shadow = asdict(tally)
        known.state = "rejected" if faults else "ready"
        self._tell(version, known.state, "; ".join(faults) or "sound beside the active one")
        return not faults

    def activate(self, version: str, *, reason: str = "asked for") -> None:
        """Let a version decide in runs that begin from now on.

        Raises:
            PolicyUpdateRefusedError: it is not there, was not asked in the shadow, or its file
                cannot be used any more.
        """
        if version == self.active:
            return
        if version != SHIPPED_VERSION:
            known = self._known(version)
            if known.state not in ("ready", "retired"):
                raise PolicyUpdateRefusedError(
                    f"{version} is {known.state}: only one that was sound in the shadow, or has "
                    f"been active before, can be activated"
                )
            self._verify(known)
        self._retire(self.active, "retired")
        self._book.previous.append(self.active)
        self._take_over(version, "activated", reason)

    def roll_back(self, reason: str) -> str:
        """Put the version before the active one back; return which that is.

        A version whose own file cannot be used is passed over; the program's own is always there.
        """
        left = self.active
        self._retire(left, "rejected")
        while self._book.previous:
            version = self._book.previous.pop()
            if version == SHIPPED_VERSION or self._is_sound(version):
                break
        else:
            version = SHIPPED_VERSION
        self._take_over(version, "put back", f"{left} was rolled back: {reason}")
        return version

    def _take_over(self, version: str, what: str, reason: str) -> None:
        if version != SHIPPED_VERSION:
            self._book.versions[version].state = "active"
        self._book.active = version
        self._tell(version, what, reason)

    def _retire(self, version: str, state: State) -> None:
        if version != SHIPPED_VERSION:
            self._book.versions[version].state = state

    def _known(self, version: str) -> Version:
        if version not in self._book.versions:
            listed = ", ".join([SHIPPED_VERSION, *self._book.versions])
            raise PolicyUpdateRefusedError(f"no policy version {version!r}; known: {listed}")
        return self._book.versions[version]

    def _verify(self, known: Version) -> None:
        try:
            read_verified(self._folder / known.file)
        except (PolicyFileError, OSError) as error:
            raise PolicyUpdateRefusedError(str(error)) from error

    def _is_sound(self, version: str) -> bool:
        try:
            self._verify(self._known(version))
        except PolicyUpdateRefusedError as refusal:
            self._tell(version, "passed over", str(refusal))
            return False
        return True

    def _tell(self, version: str, what: str, reason: str) -> None:
        self._book.history.append(Event(self._now(), version, what, reason))
        write_json_atomically(self._folder / "shelf.json", asdict(self._book))

    def _read(self) -> _Book:
        try:
            told: Mapping[str, Any] = json.loads((self._folder / "shelf.json").read_text())
        except FileNotFoundError:
            return _Book()
        return _Book(
            active=told["active"],
            previous=list(told["previous"]),
            versions={name: Version(**version) for name, version in told["versions"].items()},
            history=[Event(**event) for event in told["history"]],
        )
