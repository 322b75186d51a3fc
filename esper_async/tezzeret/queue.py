"""The durable job queue: one SQLite file, in which a job is finished once."""

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from esper_async.kasmina.compiling.kernel_record import attempts_of
from esper_async.kasmina.interface import SiteInterface
from esper_async.tezzeret.job import Answer, Job, JobKind, JobState, Priority, Work

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS jobs (
        id TEXT PRIMARY KEY, work TEXT NOT NULL, kind TEXT NOT NULL, fingerprint TEXT NOT NULL,
        state TEXT NOT NULL, priority INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
        key TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL, finished_at REAL, elapsed_ms REAL) STRICT""",
    "CREATE INDEX IF NOT EXISTS jobs_open ON jobs (state, priority, created_at)",
    """CREATE TABLE IF NOT EXISTS requests (
        id TEXT PRIMARY KEY, run TEXT NOT NULL, job TEXT NOT NULL REFERENCES jobs (id),
        answered INTEGER NOT NULL DEFAULT 0) STRICT""",
    "CREATE INDEX IF NOT EXISTS requests_open ON requests (answered, job)",
    """CREATE TABLE IF NOT EXISTS interfaces (
        interface TEXT PRIMARY KEY, work TEXT NOT NULL, last_requested REAL NOT NULL) STRICT""",
)
_COLUMNS = "work, state, priority, attempts, key, error, elapsed_ms"
_FINAL = (JobState.DONE, JobState.FAILED, JobState.REFUSED)


class JobQueue:
    """Jobs of one forge, in `path`; durable when a method returns.

    Only the forge's service writes it. Methods block on the disk, are safe from several threads,
    and raise sqlite3.Error. A job found RUNNING when the queue is opened was cut short by the
    death of the forge: it is queued again, and that attempt is not held against it.
    """

    def __init__(self, path: Path, *, now: Callable[[], float], max_attempts: int = 3) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._max_attempts = max_attempts
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        with self._writing() as database:
            for statement in _SCHEMA:
                database.execute(statement)
        self.recover()

    def recover(self, busy: Collection[str] = ()) -> None:
        """Queue again what is RUNNING although nobody works on it; the attempt does not count.

        `busy` are the ids of jobs that somebody does work on.
        """
        marks = ", ".join("?" for _ in busy)
        with self._writing() as database:
            database.execute(
                "UPDATE jobs SET state = ?, attempts = max(0, attempts - 1)"
                f" WHERE state = ? AND id NOT IN ({marks})",
                (JobState.QUEUED, JobState.RUNNING, *busy),
            )

    def request(self, request_id: str, run_id: str, work: Work) -> Job:
        """Note who wants `work` and see that it gets done; asking again changes nothing.

        Also remembers the interface, and queues a survey of it where there has been none.
        """
        urgency = Priority.COMPILE if work.kind is JobKind.COMPILE else Priority.LIVE
        with self._writing() as database:
            job = self._add(database, work, urgency)
            database.execute(
                "INSERT OR IGNORE INTO requests (id, run, job) VALUES (?, ?, ?)",
                (request_id, run_id, work.id),
            )
            survey = Work(JobKind.SURVEY, work.interface, work.fingerprint, device=work.device)
            self._add(database, survey, Priority.SURVEY)
            database.execute(
                "INSERT OR REPLACE INTO interfaces VALUES (?, ?, ?)",
                (f"{work.interface.key} {work.device}", survey.to_json(), self._now()),
            )
            return job

    def add(self, work: Work, priority: Priority) -> Job:
        """Queue work that nobody has asked for, unless it is there already."""
        with self._writing() as database:
            return self._add(database, work, priority)

    def claim(self, without: Collection[JobKind] = ()) -> Job | None:
        """The most urgent queued job, now running; None when there is none.

        `without` are kinds that cannot be done now; they stay where they are.
        """
        marks = ", ".join("?" for _ in without)
        with self._writing() as database:
            row = database.execute(
                f"SELECT id FROM jobs WHERE state = ? AND kind NOT IN ({marks})"
                " ORDER BY priority, attempts, created_at, rowid LIMIT 1",
                (JobState.QUEUED, *without),
            ).fetchone()
            if row is None:
                return None
            database.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1 WHERE id = ?",
                (JobState.RUNNING, row[0]),
            )
            return _job(database, row[0])

    def finish(
        self, job_id: str, *, key: str, elapsed_ms: float, found: Iterable[Work] = ()
    ) -> Job:
        """The job is done; `found` is what a survey has brought to light.

        What is found and nobody has asked for is announced under a request id of the forge's own.
        Raises ValueError when the job is not running.
        """
        with self._writing() as database:
            for work in found:
                self._add(database, work, Priority.BACKGROUND)
                database.execute(
                    "INSERT INTO requests (id, run, job) SELECT ?, '', ?"
                    " WHERE NOT EXISTS (SELECT 1 FROM requests WHERE job = ?)",
                    (f"forge:{work.id}", work.id, work.id),
                )
            return self._end(database, job_id, JobState.DONE, key=key, elapsed_ms=elapsed_ms)

    def refuse(self, job_id: str, reason: str) -> Job:
        """The job asks for something that cannot be; it is not tried again."""
        with self._writing() as database:
            return self._end(database, job_id, JobState.REFUSED, error=reason)

    def fail(self, job_id: str, reason: str) -> Job:
        """The attempt failed: queued again, or FAILED once the attempts are used up."""
        with self._writing() as database:
            job = _job(database, job_id)
            attempts, most = job.attempts, self._max_attempts
            if job.work.compile is not None:
                most = attempts_of(job.work.compile.strategy)
            if attempts >= most:
                return self._end(database, job_id, JobState.FAILED, error=reason)
            return self._requeue(database, job_id, reason, attempts)

    def give_back(self, job_id: str, reason: str) -> Job:
        """The attempt came to nothing through no fault of the job: queued as if never tried."""
        with self._writing() as database:
            attempts = max(0, _job(database, job_id).attempts - 1)
            return self._requeue(database, job_id, reason, attempts)

    def repeat(self, job_id: str) -> Job:
        """Do a finished job once more, since its result was lost."""
        with self._writing() as database:
            database.execute("UPDATE requests SET answered = 0 WHERE job = ?", (job_id,))
            return self._requeue(database, job_id, "its result was lost", 0)

    def finished(self, fingerprint: str) -> list[Job]:
        """The proofs and compilations that are done with the present code."""
        with self._reading() as database:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state = ? AND kind <> ? AND fingerprint = ?",
                (JobState.DONE, JobKind.SURVEY, fingerprint),
            ).fetchall()
        return [_from_row(row) for row in rows]

    def interfaces(self, since: float) -> list[tuple[SiteInterface, str]]:
        """Interfaces and devices that somebody has asked about since then (Unix seconds)."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT work FROM interfaces WHERE last_requested >= ?", (since,)
            ).fetchall()
        surveys = [Work.from_json(row[0]) for row in rows]
        return [(survey.interface, survey.device) for survey in surveys]

    def unanswered(self, limit: int = 100) -> list[Answer]:
        """Requests whose job has ended and whose asker has not been told."""
        marks = ", ".join("?" for _ in _FINAL)
        with self._reading() as database:
            rows = database.execute(
                "SELECT requests.id, requests.run, jobs.id FROM requests"
                " JOIN jobs ON jobs.id = requests.job"
                f" WHERE NOT answered AND jobs.state IN ({marks}) LIMIT ?",
                (*_FINAL, limit),
            ).fetchall()
            return [Answer(request, run, _job(database, job)) for request, run, job in rows]

    def answered(self, request_id: str) -> None:
        """The asker has been told."""
        with self._writing() as database:
            database.execute("UPDATE requests SET answered = 1 WHERE id = ?", (request_id,))

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        with self._reading() as database:
            rows = database.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        return {str(state): int(count) for state, count in rows}

    def waiting(self, kind: JobKind) -> int:
        """How many jobs of a kind are queued."""
        with self._reading() as database:
            row = database.execute(
                "SELECT COUNT(*) FROM jobs WHERE state = ? AND kind = ?", (JobState.QUEUED, kind)
            ).fetchone()
        return int(row[0])

    def get(self, job_id: str) -> Job:
        """One job. Raises KeyError."""
        with self._reading() as database:
            return _job(database, job_id)

    def close(self) -> None:
        """Close the file; the queue is of no use afterwards."""
        with self._lock:
            self._connection.close()

    def _add(self, database: sqlite3.Connection, work: Work, priority: Priority) -> Job:
        database.execute(
            "INSERT INTO jobs (id, work, kind, fingerprint, state, priority, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET priority = min(priority, excluded.priority)",
            (
                work.id,
                work.to_json(),
                work.kind,
                work.fingerprint,
                JobState.QUEUED,
                int(priority),
                self._now(),
            ),
        )
        return _job(database, work.id)

    def _end(
        self,
        database: sqlite3.Connection,
        job_id: str,
        state: JobState,
        *,
        key: str = "",
        error: str = "",
        elapsed_ms: float | None = None,
    ) -> Job:
        changed = database.execute(
            "UPDATE jobs SET state = ?, key = ?, error = ?, elapsed_ms = ?, finished_at = ?"
            " WHERE id = ? AND state = ?",
            (state, key, error, elapsed_ms, self._now(), job_id, JobState.RUNNING),
        )
        if changed.rowcount != 1:
            raise ValueError(f"job {job_id} is not running; it cannot become {state}")
        return _job(database, job_id)

    def _requeue(
        self, database: sqlite3.Connection, job_id: str, reason: str, attempts: int
    ) -> Job:
        database.execute(
            "UPDATE jobs SET state = ?, attempts = ?, error = ?, key = '', finished_at = NULL"
            " WHERE id = ?",
            (JobState.QUEUED, attempts, reason, job_id),
        )
        return _job(database, job_id)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connection


def _job(database: sqlite3.Connection, job_id: str) -> Job:
    row = database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise KeyError(f"there is no job {job_id}")
    return _from_row(row)


def _from_row(row: tuple[str, str, int, int, str, str, float | None]) -> Job:
    work, state, priority, attempts, key, error, elapsed_ms = row
    return Job(
        work=Work.from_json(work),
        state=JobState(state),
        priority=priority,
        attempts=attempts,
        key=key,
        error=error,
        elapsed_ms=elapsed_ms,
    )
