"""The pictures of all runs, kept current, and a way to be told which have changed.

Records arrive by the bus, which may lose them; the journal file of a run has them all. So a gap is
filled from the file, and a run that has gone quiet while its file grows is read from the file too:
with the bus away the picture is late, never wrong.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from esper_async.runtime.breaker import CircuitBreaker
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.journal import JournalDamagedError, read_journal
from esper_async.tamiyo.errors import MalformedRecordError, UnknownRunError
from esper_async.tamiyo.picture import ENDED, Fold, RunPicture
from esper_async.tamiyo.seed_picture import Json

log = structlog.get_logger(__name__)


class Subscription:
    """Which runs changed since one last asked. It holds one entry a run, however slow one asks."""

    def __init__(self) -> None:
        self._changed: dict[str, int] = {}
        self._wake = asyncio.Event()

    def tell(self, run_id: str, seq_before: int) -> None:
        """Remember that a run changed after record `seq_before`."""
        self._changed[run_id] = min(seq_before, self._changed.get(run_id, seq_before))
        self._wake.set()

    async def changes(self) -> dict[str, int]:
        """Wait for changes; return each changed run with the last record known before them."""
        await self._wake.wait()
        self._wake.clear()
        changed, self._changed = self._changed, {}
        return changed

    async def __aiter__(self) -> AsyncIterator[dict[str, int]]:
        """Yield changes for as long as one iterates."""
        while True:
            yield await self.changes()


class Hub:
    """The live picture of every run of a state directory. All calls from one event loop.

    Args:
        runs_dir: the folder with one folder a run.
        keep: how many ended runs stay in memory whole; of others only the summary stays, and
            their picture is read from the journal when asked for.
        quiet_s: how long a run may be silent on the bus before its journal file is looked at.
        disk: the breaker behind which journals are read. What needs one raises BreakerOpen while
            it is open, and OSError while the disk fails; what the bus tells goes on.
    """

    def __init__(
        self,
        runs_dir: Path,
        *,
        keep: int = 12,
        quiet_s: float = 2.0,
        disk: CircuitBreaker | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._runs_dir = runs_dir
        self._keep = keep
        self._quiet_s = quiet_s
        self._clock = clock or SystemClock()
        self._disk = disk or CircuitBreaker("tamiyo.journals", clock=self._clock)
        self._pictures: dict[str, RunPicture] = {}
        self._summaries: dict[str, Json] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._heard: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._subscriptions: set[Subscription] = set()
        self.hardware: dict[str, Json] = {}
        self.malformed = 0

    async def rebuild(self) -> None:
        """Read every run folder. A damaged journal shows in its run's faults and stops nobody."""
        for run_id in await self._disk.call(asyncio.to_thread, self._run_folders):
            await self.catch_up(run_id)

    def _run_folders(self) -> list[str]:
        if not self._runs_dir.is_dir():
            return []
        return sorted(path.name for path in self._runs_dir.iterdir() if path.is_dir())

    def runs(self) -> list[Json]:
        """A summary of every known run, newest first."""
        summaries = [picture.summary() for picture in self._pictures.values()]
        summaries += self._summaries.values()
        return sorted(
            summaries, key=lambda run: (run["created_at"] or 0.0, run["id"]), reverse=True
        )

    def live(self) -> list[RunPicture]:
        """The pictures of the runs that have not ended."""
        return [picture for picture in self._pictures.values() if picture.state not in ENDED]

    def knows(self, run_id: str) -> bool:
        """Whether this run has been heard of."""
        return run_id in self._pictures or run_id in self._summaries

    def policy_of(self, run_id: str) -> str | None:
        """The policy that a run began with; None where it is not known."""
        if run_id in self._pictures:
            return self._pictures[run_id].policy
        policy: str | None = self._summaries.get(run_id, {}).get("policy")
        return policy

    async def picture(self, run_id: str) -> RunPicture:
        """The whole picture of a run, read from its journal when it is not in memory.

        Raises UnknownRunError.
        """
        if run_id not in self._pictures:
            if run_id not in self._summaries:
                raise UnknownRunError(run_id)
            await self.catch_up(run_id)
        picture = self._pictures.pop(run_id)
        self._pictures[run_id] = picture  # the most recently used stays longest
        return picture

    async def accept(self, record: Mapping[str, Any]) -> None:
        """Fold one record that came over the bus, after whatever it shows to be missing."""
        run_id = record.get("run")
        if not isinstance(run_id, str) or not run_id or "/" in run_id or run_id.startswith("."):
            self.malformed += 1
            log.warning("run_record_refused", run=run_id, reason="it names no run")
            return
        self._heard[run_id] = self._clock.monotonic()
        async with self._lock(run_id):
            picture = await self._loaded(run_id)
            before = picture.seq
            if self._fold(picture, [record]) is Fold.GAP:
                await self._read(picture)
            self._announce(picture, before)

    async def catch_up(self, run_id: str) -> None:
        """Bring a run's picture up to its journal file."""
        async with self._lock(run_id):
            picture = self._pictures.get(run_id) or self._new(run_id)
            before = picture.seq
            await self._read(picture)
            self._pictures[run_id] = picture
            self._announce(picture, before)
        self._trim()

    async def watch_files(self) -> None:
        """Follow the journals of runs that the bus does not tell about; runs until cancelled."""
        while True:
            await self._clock.sleep(self._quiet_s)
            try:
                await self._look_at_files()
            except (OSError, BreakerOpen) as error:
                log.warning("journals_not_read", error=str(error))

    async def _look_at_files(self) -> None:
        now = self._clock.monotonic()
        sizes = await self._disk.call(asyncio.to_thread, self._journal_sizes)
        for run_id, size in sizes.items():
            quiet = now - self._heard.get(run_id, 0.0) >= self._quiet_s
            if quiet and size != self._sizes.get(run_id):
                await self.catch_up(run_id)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Be told of changes inside the `with` block."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _journal_sizes(self) -> dict[str, int]:
        sizes = {}
        for run_id in self._run_folders():
            try:
                sizes[run_id] = self._journal(run_id).stat().st_size
            except FileNotFoundError:
                continue
        return sizes

    def _journal(self, run_id: str) -> Path:
        return self._runs_dir / run_id / "journal.jsonl"

    def _lock(self, run_id: str) -> asyncio.Lock:
        return self._locks.setdefault(run_id, asyncio.Lock())

    def _new(self, run_id: str) -> RunPicture:
        self._summaries.pop(run_id, None)
        return RunPicture(run_id)

    async def _loaded(self, run_id: str) -> RunPicture:
        if run_id not in self._pictures:
            picture = self._new(run_id)
            self._pictures[run_id] = picture
            await self._read(picture)
        return self._pictures[run_id]

    async def _read(self, picture: RunPicture) -> None:
        """Fold what the journal file has beyond the picture. The caller holds the run's lock."""
        path = self._journal(picture.id)

        def load() -> tuple[list[Json], str | None, int]:
            records: list[Json] = []
            try:
                size = path.stat().st_size
                records.extend(read_journal(path, picture.seq))
            except FileNotFoundError:
                return [], None, 0
            except JournalDamagedError as error:
                return records, str(error), size
            return records, None, size

        records, fault, self._sizes[picture.id] = await self._disk.call(asyncio.to_thread, load)
        self._fold(picture, records)
        if fault is not None and fault not in picture.faults:
            picture.faults.append(fault)
            log.error("journal_damaged", run=picture.id, reason=fault)
        if picture.seq == 0:
            picture.created_at = await asyncio.to_thread(self._created_at, picture.id)

    def _created_at(self, run_id: str) -> float | None:
        """When a run that has not started yet was accepted, by its run.json."""
        try:
            stored = json.loads((self._runs_dir / run_id / "run.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        created_at = stored.get("created_at") if isinstance(stored, dict) else None
        return float(created_at) if isinstance(created_at, int | float) else None

    def _fold(self, picture: RunPicture, records: Iterable[Mapping[str, Any]]) -> Fold:
        outcome = Fold.REPEATED
        for record in records:
            try:
                outcome = picture.fold(record)
            except MalformedRecordError as error:
                self.malformed += 1
                log.error("run_record_malformed", run=picture.id, reason=str(error))
            if outcome is Fold.GAP:
                return outcome
        return outcome

    def _announce(self, picture: RunPicture, seq_before: int) -> None:
        if picture.seq == seq_before:
            return
        for subscription in self._subscriptions:
            subscription.tell(picture.id, seq_before)

    def _trim(self) -> None:
        """Keep only summaries of the ended runs that were used longest ago."""
        ended = [run_id for run_id, picture in self._pictures.items() if picture.state in ENDED]
        for run_id in ended[: max(0, len(ended) - self._keep)]:
            self._summaries[run_id] = self._pictures.pop(run_id).summary()
