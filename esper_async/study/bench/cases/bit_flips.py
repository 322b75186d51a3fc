"""Bits flip in the library's files: is anything wrong served, noticed, and made good again?

A library of real certificates is damaged a bit at a time: in its blobs, its sidecars, its audit
log, its catalogue file and that file's write-ahead log, half of the catalogue's flips aimed at
records. Another process's library stays open on the same files all the time. After each flip
everything is asked for, by key and by query, then the library is swept; what is lost goes back
into the forge's queue and is proved anew.

Whether a flip in the catalogue hit something is asked of SQLite alone: a bit in unused space says
nothing to anybody. A flip in any other file always does.
"""

import hashlib
import random
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import blueprints_for
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)
from esper_async.tezzeret.job import JobKind, Priority, Work
from esper_async.tezzeret.queue import JobQueue
from esper_async.tezzeret.worker import perform
from esper_async.urza import CERTIFICATE, Asset, Library, Query, rows
from esper_async.urza.blobs import BlobStore
from esper_async.urza.sweep import SweepReport

_FLIPS = {Effort.SHORT: 200, Effort.FULL: 1_000}
_BLUEPRINTS = 6
_INTERFACES = (SiteInterface("feature", (8,)), SiteInterface("sequence", (4, 8)))
_FINGERPRINT = "bit-flips"
_PLACES = ("blob", "sidecar", "record", "catalogue", "audit")
_WEIGHTS = (30, 15, 25, 25, 5)
_CHECKPOINTED = 0.8
"""So often everything lies in the catalogue's file when it is hit, and nothing in its log."""
_WRONG, _UNNOTICED, _UNHEALED = "served wrong", "hit, and not noticed", "not made good again"


@dataclass(slots=True)
class Tally:
    """What became of the flips."""

    hit: Counter[str] = field(default_factory=Counter)
    flips: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    unnoticed: int = 0
    unhealed: int = 0
    proved: int = 0


def measure(effort: Effort) -> list[Row]:
    """Flip bit after bit."""
    chance = random.Random(20)  # noqa: S311 - it draws what is measured
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, closing(Victim(Path(folder))) as victim:
        victim.forge()
        for number in range(_FLIPS[effort]):
            if not victim.has_blobs:
                break  # so much was not made good again that there is nothing left to hit
            _flip_once(victim, chance, tally, running_first=number % 2 == 0)
        tally.proved = victim.proved
    told = ", ".join(f"{tally.hit[each]} of {tally.flips[each]} in {each}" for each in _PLACES)
    most = Bar("at most", 0.0)
    return [
        shown("flips", float(tally.flips.total()), "bits", note=f"that hit something: {told}"),
        judged(_WRONG, float(tally.wrong), "flips", most, note="by key or by query"),
        judged(_UNNOTICED, float(tally.unnoticed), "flips", most),
        judged(_UNHEALED, float(tally.unhealed), "flips", most, note=f"{tally.proved} proofs anew"),
    ]


def _flip_once(
    victim: "Victim", chance: random.Random, tally: Tally, *, running_first: bool
) -> None:
    """Flip a bit, and ask two libraries: one that was open before, and one that opens now.

    Whoever is asked first finds the damage: one that opens looks through everything before it
    answers, one that is open has but what it reads.
    """
    place = chance.choices(_PLACES, _WEIGHTS)[0]
    tally.flips[place] += 1
    victim.flip(place, chance)
    hit = place in ("blob", "sidecar", "audit") or victim.catalogue_tells_otherwise()
    tally.hit[place] += hit
    failed = victim.bystander.statistics.integrity_failures
    right = victim.serves_right(victim.bystander) if running_first else True
    with closing(Library(victim.directory)) as library:
        right = victim.serves_right(library) and right
        tally.wrong += not (victim.serves_right(victim.bystander) and right)
        lost = victim.lost(library)
        clean = library.verify().clean
        failed = victim.bystander.statistics.integrity_failures - failed
        noticed = bool(lost) or not clean or library.statistics.integrity_failures + failed > 0
        tally.unnoticed += hit and not noticed
    victim.forge()
    tally.unhealed += not victim.whole()


class Victim:
    """A library, what it was given, and the forge's queue that keeps it supplied."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "urza"
        self.bystander = Library(self.directory)
        self.proved = 0
        self._queue = JobQueue(folder / "jobs.sqlite", now=time.time)
        for interface in _INTERFACES:
            for blueprint in blueprints_for(interface)[:_BLUEPRINTS]:
                work = Work(JobKind.PROVE, interface, _FINGERPRINT, blueprint=blueprint.id)
                self._queue.add(work, Priority.BACKGROUND)
        self._assets: dict[str, Asset] = {}
        self._contents: dict[str, bytes] = {}
        self._dump: frozenset[object] = frozenset()

    def close(self) -> None:
        """Let go of the files."""
        self.bystander.close()
        self._queue.close()

    def forge(self) -> None:
        """Have everything that is lost proved anew, as the forge does, and note what is there."""
        with closing(Library(self.directory, actor="tezzeret")) as library:
            for done in self._queue.finished(_FINGERPRINT):
                if library.read(done.key) is None:
                    self._queue.repeat(done.id)
            while (job := self._queue.claim()) is not None:
                told = perform(job.work, library)
                self.proved += told["outcome"] == "done"
                self._queue.finish(job.id, key=str(told["key"]), elapsed_ms=0.0)
                self._note(library, str(told["key"]))
            library.verify()
        self._dump = self._tells()

    @property
    def has_blobs(self) -> bool:
        """Whether there is a blob of anything that was put in."""
        return any(self._blob_of(asset).exists() for asset in self._assets.values())

    def lost(self, library: Library) -> list[str]:
        """The keys under which there is nothing now."""
        return [key for key in self._assets if library.read(key) is None]

    def serves_right(self, library: Library) -> bool:
        """Whether it gives, by key and by query, what was put in, or nothing."""
        try:
            by_key = all(
                library.read(key) in (None, content) for key, content in self._contents.items()
            )
            given = library.find(Query(kind=CERTIFICATE, in_force=True))
        except (ValueError, TypeError, KeyError):
            return False
        known = {asset.id: asset for asset in self._assets.values()}
        return by_key and all(known.get(asset.id) == asset for asset in given)

    def whole(self) -> bool:
        """Whether all that was put in is there again, and nothing is left to mend."""
        with closing(Library(self.directory)) as library:
            there = {asset.key: asset for asset in library.find(Query(in_force=True))}
            return (
                there == self._assets
                and self.serves_right(library)
                and not self.lost(library)
                and library.verify().clean
            )

    def flip(self, place: str, chance: random.Random) -> None:
        """Flip one bit somewhere in the files of that kind."""
        path, positions = self._target(place, chance)
        position = chance.choice(positions)
        with path.open("r+b") as file:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ (1 << chance.randrange(8))]))

    def catalogue_tells_otherwise(self) -> bool:
        """Whether SQLite, without our digests, finds the catalogue changed or broken."""
        return self._tells() != self._dump

    def _note(self, library: Library, key: str) -> None:
        asset, content = library.get(key), library.read(key)
        if asset is None or content is None:
            raise RuntimeError(f"{key} is not there, although it was just put")
        self._assets[key], self._contents[key] = asset, content

    def _target(self, place: str, chance: random.Random) -> tuple[Path, range]:
        if place in ("blob", "sidecar"):
            of = self._blob_of if place == "blob" else self._sidecar_of
            paths = [of(asset) for asset in self._assets.values()]
            path = chance.choice([path for path in paths if path.exists()])
        elif place == "audit":
            path = self.directory / "audit.jsonl"
        else:
            return self._in_catalogue(place, chance)
        return path, range(path.stat().st_size)

    def _blob_of(self, asset: Asset) -> Path:
        return self.directory / "blobs" / asset.blob[:2] / asset.blob

    def _sidecar_of(self, asset: Asset) -> Path:
        name = hashlib.sha256(asset.key.encode()).hexdigest()
        return self.directory / "sidecars" / name[:2] / f"{name}.{asset.version}.json"

    def _in_catalogue(self, place: str, chance: random.Random) -> tuple[Path, range]:
        database = (self.directory / "catalogue.sqlite").resolve()
        if chance.random() < _CHECKPOINTED:
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        log = database.with_name(f"{database.name}-wal")
        files = [path for path in (database, log) if path.exists() and path.stat().st_size]
        sizes = [path.stat().st_size for path in files]
        path = chance.choices(files, sizes)[0]
        if place == "record":
            content = path.read_bytes()
            starts = list(_occurrences(content, b'{"blob":"'))
            if starts:
                start = chance.choice(starts)
                return path, range(start, min(start + 500, len(content)))
        return path, range(path.stat().st_size)

    def _tells(self) -> frozenset[object]:
        place = f"file:{(self.directory / 'catalogue.sqlite').resolve()}?mode=ro"
        try:
            with closing(sqlite3.connect(place, uri=True)) as connection:
                (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
                found: list[object] = [sound]
                for table in ("assets", "audit", "sqlite_schema"):
                    found += connection.execute(f"SELECT '{table}', * FROM {table}").fetchall()
                return frozenset(found)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            return frozenset([str(error)])


def _occurrences(content: bytes, sought: bytes) -> Iterator[int]:
    place = content.find(sought)
    while place >= 0:
        yield place
        place = content.find(sought, place + 1)


def _unverified(store: BlobStore, name: str) -> bytes | None:
    try:
        return store.path(name).read_bytes()
    except FileNotFoundError:
        return None


def _believed(row: tuple[object, ...]) -> Asset:
    return Asset.from_json(str(row[-2]))


_ALL_WELL = SweepReport(
    checked=0,
    rebuilt=None,
    damaged_rows=0,
    restored_rows=0,
    rewritten_sidecars=0,
    damaged_audit=0,
    restored_audit=0,
    rewritten_audit=False,
    lost_blobs=(),
)

BENCHMARK = Benchmark(
    name="bit-flips",
    question="when bits of the library flip, is anything wrong served, or left unmended?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "blobs are not verified",
            "a blob is what lies under its name",
            lambda: replaced("esper_async.urza.blobs.BlobStore.read", _unverified),
            fails=(_WRONG, _UNNOTICED, _UNHEALED),
        ),
        Mutant(
            "rows are not verified",
            "a record is believed without its digest, whatever its row's columns say",
            lambda: replaced(f"{rows.__name__}.verified", _believed),
            fails=(_WRONG,),
        ),
        Mutant(
            "a sweep that looks away",
            "a sweep finds everything whole, at once",
            lambda: replaced("esper_async.urza.library.sweep", lambda *_: _ALL_WELL),
            fails=(_UNNOTICED,),
        ),
        Mutant(
            "nothing is proved anew",
            "what the library has lost is not put back into the forge's queue",
            lambda: replaced("esper_async.tezzeret.queue.JobQueue.repeat", lambda *_: None),
            fails=(_UNHEALED,),
        ),
    ),
)
