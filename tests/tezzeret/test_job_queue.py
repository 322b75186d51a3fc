"""The job queue survives anything and finishes each job once."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from esper_async.kasmina.compiling.kernel_record import Strategy
from esper_async.kasmina.interface import SiteInterface
from esper_async.tezzeret.job import Compile, JobKind, JobState, Priority, Work
from esper_async.tezzeret.queue import JobQueue

SITE = SiteInterface("spatial", (8, 4, 4))


def proof(blueprint: str = "BP009", **changes) -> Work:
    fields = {"interface": SITE, "fingerprint": "f1", "blueprint": blueprint, **changes}
    return Work(JobKind.PROVE, **fields)


def opened(tmp_path: Path, **options) -> JobQueue:
    return JobQueue(tmp_path / "jobs.sqlite", now=lambda: 1000.0, **options)


@pytest.fixture
def queue(tmp_path: Path):
    made = opened(tmp_path)
    yield made
    made.close()


def test_work_survives_its_own_text_and_equal_work_has_one_id():
    work = proof(settings={"width": 8})
    assert Work.from_json(work.to_json()) == work
    assert Work.from_json(work.to_json()).id == work.id


@pytest.mark.parametrize(
    "other",
    [
        proof("BP010"),
        proof(fingerprint="f2"),
        proof(settings={"width": 9}),
        proof(device="cuda"),
        proof(interface=SiteInterface("spatial", (8, 4, 5))),
        Work(JobKind.SURVEY, SITE, "f1", "BP009"),
    ],
)
def test_work_that_differs_in_anything_is_other_work(other: Work):
    assert other.id != proof().id


def test_asking_twice_makes_one_job_and_one_survey_of_the_interface(queue: JobQueue):
    queue.request("r1", "run", proof())
    queue.request("r1", "run", proof())
    queue.request("r2", "run", proof())
    assert queue.counts() == {"queued": 2}
    queue.finish(queue.claim().id, key="k", elapsed_ms=1.0)
    assert sorted(answer.request_id for answer in queue.unanswered()) == ["r1", "r2"]


def test_the_most_urgent_goes_first_and_a_live_request_lifts_background_work(queue: JobQueue):
    for blueprint in ("BP001", "BP002", "BP003"):
        queue.add(proof(blueprint), Priority.BACKGROUND)
    queue.request("r1", "run", proof("BP003"))
    order = [queue.claim() for _ in range(4)]
    assert [job.work.blueprint for job in order] == ["BP003", "", "BP001", "BP002"]
    assert queue.claim() is None


def test_a_job_cut_short_by_a_crash_is_queued_again_without_blame(tmp_path: Path):
    first = opened(tmp_path)
    first.add(proof(), Priority.LIVE)
    assert first.claim().attempts == 1
    first.close()
    second = opened(tmp_path)
    job = second.claim()
    assert (job.work, job.attempts) == (proof(), 1)
    second.close()


def test_what_is_finished_is_not_done_again_after_reopening(tmp_path: Path):
    first = opened(tmp_path)
    first.add(proof(), Priority.LIVE)
    first.finish(first.claim().id, key="k", elapsed_ms=2.0)
    first.close()
    second = opened(tmp_path)
    second.request("r", "run", proof())
    assert second.claim().work.kind is JobKind.SURVEY
    assert second.claim() is None
    assert second.get(proof().id).key == "k"
    second.close()


def test_attempts_are_limited_and_then_the_job_has_failed_with_the_last_reason(tmp_path: Path):
    queue = opened(tmp_path, max_attempts=2)
    queue.add(proof(), Priority.LIVE)
    assert queue.fail(queue.claim().id, "died").state is JobState.QUEUED
    failed = queue.fail(queue.claim().id, "died again")
    assert (failed.state, failed.error, failed.attempts) == (JobState.FAILED, "died again", 2)
    assert queue.claim() is None
    queue.close()


def test_a_job_given_back_has_lost_no_attempt(queue: JobQueue):
    queue.add(proof(), Priority.LIVE)
    for _ in range(10):
        queue.give_back(queue.claim().id, "the disk was full")
    assert queue.claim().attempts == 1


def test_a_survey_and_what_it_found_are_one_transaction(queue: JobQueue):
    queue.add(Work(JobKind.SURVEY, SITE, "f1"), Priority.SURVEY)
    survey = queue.claim()
    with pytest.raises(ValueError, match="not running"):
        queue.finish("nobody", key="", elapsed_ms=1.0, found=[proof("BP001")])
    assert queue.counts() == {"running": 1}
    queue.finish(survey.id, key="", elapsed_ms=1.0, found=[proof("BP001"), proof("BP002")])
    assert queue.counts() == {"done": 1, "queued": 2}


def test_only_a_running_job_can_end(queue: JobQueue):
    queue.add(proof(), Priority.LIVE)
    with pytest.raises(ValueError, match="not running"):
        queue.finish(proof().id, key="k", elapsed_ms=1.0)
    with pytest.raises(ValueError, match="not running"):
        queue.refuse(proof().id, "no")


def test_interfaces_are_remembered_with_the_time_of_the_last_request(queue: JobQueue):
    queue.request("r1", "run", proof())
    assert queue.interfaces(since=999.0) == [(SITE, "cpu")]
    assert queue.interfaces(since=1001.0) == []


def test_a_repeated_job_is_answered_again(queue: JobQueue):
    queue.request("r1", "run", proof())
    queue.finish(queue.claim().id, key="k", elapsed_ms=1.0)
    queue.answered("r1")
    assert queue.unanswered() == []
    queue.repeat(proof().id)
    queue.finish(queue.claim().id, key="k", elapsed_ms=1.0)
    assert [answer.request_id for answer in queue.unanswered()] == ["r1"]


def compilation(blueprint: str = "BP009", strategy: Strategy = Strategy.STANDARD) -> Work:
    return Work(JobKind.COMPILE, SITE, "f1", blueprint, compile=Compile(32, 1, strategy))


def test_a_compilation_survives_its_own_text_and_differs_by_what_it_is_for():
    work = compilation()
    assert Work.from_json(work.to_json()) == work
    others = [
        compilation(strategy=Strategy.FAST),
        Work(JobKind.COMPILE, SITE, "f1", "BP009", compile=Compile(33, 1)),
        Work(JobKind.COMPILE, SITE, "f1", "BP009", compile=Compile(32, 2)),
        proof(),
    ]
    assert work.id not in {other.id for other in others}


def test_what_a_live_run_waits_for_goes_before_what_is_faster_for_it(queue: JobQueue):
    queue.add(proof("BP001"), Priority.BACKGROUND)
    queue.request("r1", "run", compilation("BP002"))
    queue.request("r2", "run", proof("BP003"))
    claimed = [queue.claim() for _ in range(4)]
    order = [(job.work.kind, job.work.blueprint) for job in claimed]
    assert order == [("prove", "BP003"), ("survey", ""), ("compile", "BP002"), ("prove", "BP001")]


def test_jobs_that_cannot_be_done_now_stay_where_they_are(queue: JobQueue):
    queue.add(compilation(), Priority.COMPILE)
    assert queue.claim(without=[JobKind.COMPILE]) is None
    assert queue.waiting(JobKind.COMPILE) == 1
    assert queue.claim().work == compilation()
    assert queue.waiting(JobKind.COMPILE) == 0


@pytest.mark.parametrize(
    ("strategy", "attempts"), [(Strategy.AGGRESSIVE, 8), (Strategy.STANDARD, 6), (Strategy.FAST, 4)]
)
def test_a_compilation_has_two_attempts_at_every_step(
    queue: JobQueue, strategy: Strategy, attempts: int
):
    queue.add(compilation(strategy=strategy), Priority.COMPILE)
    states = [queue.fail(queue.claim().id, "broke").state for _ in range(attempts)]
    assert states == [JobState.QUEUED] * (attempts - 1) + [JobState.FAILED]


def test_recovery_leaves_alone_what_somebody_works_on(queue: JobQueue):
    for blueprint in ("BP001", "BP002"):
        queue.add(proof(blueprint), Priority.LIVE)
    busy = queue.claim()
    queue.claim()
    queue.recover([busy.id])
    assert queue.counts() == {"queued": 1, "running": 1}
    assert queue.get(busy.id).state is JobState.RUNNING


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens, in whatever order: done stays done, and nothing is ever lost."""

    works = Bundle("works")

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.queue = opened(Path(self.directory.name))
        self.running: list[str] = []
        self.known: set[str] = set()
        self.done: set[str] = set()

    @rule(target=works, blueprint=st.sampled_from("abcd"))
    def ask(self, blueprint: str) -> Work:
        work = proof(blueprint)
        self.queue.add(work, Priority.LIVE)
        self.known.add(work.id)
        return work

    @rule()
    def claim(self) -> None:
        job = self.queue.claim()
        if job is not None:
            assert job.id not in self.done
            assert job.id not in self.running
            self.running.append(job.id)
        else:
            assert self.queue.counts().get("queued", 0) == 0

    @rule(how=st.sampled_from(["finish", "refuse", "fail", "give_back"]))
    def end(self, how: str) -> None:
        if not self.running:
            return
        job_id = self.running.pop(0)
        if how == "finish":
            self.queue.finish(job_id, key="k", elapsed_ms=1.0)
            self.done.add(job_id)
        else:
            ended = getattr(self.queue, how)(job_id, "reason")
            if ended.state in (JobState.FAILED, JobState.REFUSED):
                self.done.add(job_id)

    @rule()
    def crash(self) -> None:
        self.queue.close()
        self.queue = opened(Path(self.directory.name))
        self.running.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert sum(self.queue.counts().values()) == len(self.known)
        for job_id in self.done:
            assert self.queue.get(job_id).state not in (JobState.QUEUED, JobState.RUNNING)

    def teardown(self) -> None:
        self.queue.close()
        self.directory.cleanup()


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
