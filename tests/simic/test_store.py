"""The experience store holds each experience once, whatever order and however often it comes."""

import math
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.leyline import KernelRequest
from esper_async.simic import Bounds, ExperienceStore, Intake, Query
from tests.simic.experiences import decision, quantity, report


class Now:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def store(tmp_path: Path):
    opened = ExperienceStore(tmp_path / "experience.sqlite", now=Now())
    yield opened
    opened.close()


def content(store: ExperienceStore) -> list[bytes]:
    messages = [message for _, message in [*store.reports(), *store.decisions()]]
    return sorted(message.SerializeToString(deterministic=True) for message in messages)


EXPERIENCES = [
    (message, f"{type(message).__name__}:{index}")
    for index, message in enumerate(
        [
            *(report("a", boundary) for boundary in range(3)),
            *(decision("a", boundary) for boundary in range(4)),
            *(report("b", boundary) for boundary in range(2)),
            decision("b", 0),
        ]
    )
]


@settings(max_examples=15, deadline=None)
@given(
    order=st.permutations(range(len(EXPERIENCES))),
    again=st.lists(st.integers(0, len(EXPERIENCES) - 1), max_size=12),
    fresh_ids=st.booleans(),
)
def test_any_order_and_any_duplication_give_the_same_content(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    again: list[int],
    fresh_ids: bool,
):
    """Duplicates come under the same event id, or under a new one after the bus lost its data."""
    path = tmp_path_factory.mktemp("store") / "experience.sqlite"
    store = ExperienceStore(path, now=Now())
    arriving = [*order[: len(order) // 2], *again, *order[len(order) // 2 :], *again]
    for place, index in enumerate(arriving):
        message, event = EXPERIENCES[index]
        store.take(message, f"{event}/{place}" if fresh_ids else event)
    expected = sorted(m.SerializeToString(deterministic=True) for m, _ in EXPERIENCES)
    assert content(store) == expected
    assert store.count() == {"reports": 5, "decisions": 5, "joined": 4, "rejected": 0}
    trajectory = store.trajectory("a")
    assert [step.boundary for step in trajectory.steps] == [0, 1, 2, 3]
    assert [len(step.reports) for step in trajectory.steps] == [1, 1, 1, 0]
    assert store.trajectory("b").unmatched[0].report_id == "b-r1"
    store.close()


def test_a_message_is_stored_once_and_said_to_be_a_duplicate_afterwards(store: ExperienceStore):
    assert store.take(report("a", 1), "e1") is Intake.STORED
    assert store.take(report("a", 1), "e1") is Intake.DUPLICATE
    assert store.take(report("a", 1), "e2") is Intake.DUPLICATE
    assert store.count()["reports"] == 1


def test_what_was_taken_is_there_after_reopening(tmp_path: Path):
    path = tmp_path / "experience.sqlite"
    first = ExperienceStore(path, now=Now())
    first.take(report("a", 1), "e1")
    first.close()
    second = ExperienceStore(path, now=Now())
    assert second.take(report("a", 1), "e1") is Intake.DUPLICATE
    assert second.count()["reports"] == 1
    second.close()


NAN = quantity(0.1)
NAN.mean = math.nan
UNKNOWN_OPERATION = decision("a", 1)
UNKNOWN_OPERATION.command.seed.operation = 77


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (report("a", 1, version=2), "version 2"),
        (report("a", 1, report_id=""), "report_id is empty"),
        (report("", 1), "names no run"),
        (report("a", 1, command_id=""), "names no command"),
        (report("a", 1, outcome=0), "outcome"),
        (report("a", 1, outcome=77), "outcome 77 is not known"),
        (UNKNOWN_OPERATION, "operation 77 is not known"),
        (report("a", 1, issued_at=math.inf), "issued_at"),
        (report("a", 1, parameter_ratio=math.nan), "parameter_ratio"),
        (report("a", 1, compute_ratio=-0.5), "compute_ratio"),
        (decision("a", 1, decision_id=""), "decision_id is empty"),
        (decision("a", 1, log_probability=math.nan), "log_probability"),
        (decision("a", 1, log_probability=0.3), "log_probability"),
        (decision("a", 1, decided_at=math.nan), "decided_at"),
        (decision("a", 1, run_id="b"), "belongs to run a"),
        (KernelRequest(version=1, request_id="k"), "KernelRequest is no experience"),
    ],
)
def test_a_malformed_message_is_rejected_with_its_reason_and_counted(
    store: ExperienceStore, message, reason: str
):
    assert store.take(message, "e1") is Intake.REJECTED
    assert store.take(message, "e1") is Intake.DUPLICATE
    assert store.count() == {"reports": 0, "decisions": 0, "joined": 0, "rejected": 1}
    (rejection,) = store.rejections()
    assert reason in rejection.reason
    assert rejection.event == "e1"


def test_a_quantity_that_is_no_number_is_rejected(store: ExperienceStore):
    broken = report("a", 1)
    broken.benefit_vs_twin.CopyFrom(NAN)
    assert store.take(broken, "e1") is Intake.REJECTED


def test_the_same_id_with_other_content_is_rejected_and_the_first_stays(store: ExperienceStore):
    store.take(report("a", 1), "e1")
    assert store.take(report("a", 1, site="other"), "e2") is Intake.REJECTED
    assert "other content" in store.rejections()[0].reason
    assert store.reports()[0][1].site == "body"


def test_the_count_of_rejected_messages_outlives_their_records(store: ExperienceStore):
    for number in range(1_002):
        store.take(report("", 1), f"e{number}")
    store.prune()
    assert store.count()["rejected"] == 1_002
    assert len(store.rejections(limit=5_000)) == 1_000


def test_the_effect_and_its_event_are_one_transaction(store: ExperienceStore, monkeypatch):
    """When storing fails, the event counts as unseen and can be delivered again."""

    def no_disk(*_: object) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(store, "_store", no_disk)
    with pytest.raises(sqlite3.OperationalError):
        store.take(report("a", 1), "e1")
    monkeypatch.undo()
    assert store.take(report("a", 1), "e1") is Intake.STORED


def test_pages_follow_one_another_in_order_of_arrival(store: ExperienceStore):
    for boundary in (3, 1, 2):
        store.take(report("a", boundary), f"e{boundary}")
    first = store.reports("a", limit=2)
    rest = store.reports("a", limit=2, after=first[-1][0])
    assert [message.report_id for _, message in [*first, *rest]] == ["a-r3", "a-r1", "a-r2"]
    assert store.reports("b") == []


def test_the_newest_are_kept_when_there_are_too_many_or_they_are_too_old(tmp_path: Path):
    now = Now()
    store = ExperienceStore(tmp_path / "e.sqlite", now=now, bounds=Bounds(entries=3, age_s=100))
    for boundary in range(6):
        store.take(report("a", boundary), f"r{boundary}")
        store.take(decision("a", boundary), f"d{boundary}")
    assert store.prune() == 6
    assert [message.report_id for _, message in store.reports()] == ["a-r3", "a-r4", "a-r5"]
    now.seconds += 101
    store.take(report("a", 9), "r9")
    store.prune()
    assert store.count() == {"reports": 1, "decisions": 0, "joined": 0, "rejected": 0}
    store.close()


def test_a_boundary_decided_twice_has_two_steps_and_a_gap_is_named(store: ExperienceStore):
    for message in (decision("a", 1), decision("a", 4)):
        store.take(message, message.decision_id)
    again = decision("a", 1, decision_id="a-d1-again", decided_at=950.0)
    again.command.command_id = "a-c1-again"
    store.take(again, "again")
    trajectory = store.trajectory("a")
    assert [step.decision.decision_id for step in trajectory.steps] == [
        "a-d1",
        "a-d1-again",
        "a-d4",
    ]
    assert trajectory.missing == (2, 3)
    assert not trajectory.whole


def test_every_run_has_its_trajectory(store: ExperienceStore):
    for run in ("b", "a"):
        store.take(decision(run, 0), run)
    assert [trajectory.run for trajectory in store.trajectories()] == ["a", "b"]
    assert store.trajectory("nobody").steps == ()


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.simic.experiences import report
from esper_async.simic import ExperienceStore
store = ExperienceStore(Path(sys.argv[1]), now=time.time)
number = 0
while True:
    store.take(report("a", number), f"e{number}")
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path):
    path = tmp_path / "experience.sqlite"
    here = str(Path(__file__).parent)
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), here], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    last = 0
    while last < 20:
        last = int(writer.stdout.readline())
    writer.kill()
    writer.stdout.close()
    writer.wait()
    store = ExperienceStore(path, now=Now())
    assert store.count()["reports"] > last
    assert store.take(report("a", 0), "e0") is Intake.DUPLICATE
    store.close()


FIRST_FORM = """CREATE TABLE experiences (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL,
    run TEXT NOT NULL, boundary INTEGER NOT NULL, command TEXT NOT NULL,
    received_at REAL NOT NULL, message BLOB NOT NULL, UNIQUE (kind, id)) STRICT"""


def test_a_file_of_the_first_form_can_be_asked_as_a_new_one(tmp_path: Path):
    path = tmp_path / "experience.sqlite"
    old = sqlite3.connect(path)
    old.execute(FIRST_FORM)
    for kind, message in (("decision", decision("a", 1)), ("report", report("a", 1))):
        name = message.decision_id if kind == "decision" else message.report_id
        row = (kind, name, "a", 1, "a-c1", 1e6, message.SerializeToString(deterministic=True))
        old.execute(
            "INSERT INTO experiences (kind, id, run, boundary, command, received_at, message)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    old.commit()
    old.close()
    store = ExperienceStore(path, now=Now())
    found = store.experiences(Query(policy="random", blueprint="BP009", outcome="SUCCESS"))
    assert [each.step.decision.decision_id for _, each in found] == ["a-d1"]
    assert store.size_bytes == decision("a", 1).ByteSize() + report("a", 1).ByteSize()
    store.close()


def test_no_more_bytes_are_kept_than_may_be_and_the_oldest_go(tmp_path: Path):
    size = report("a", 0).ByteSize()
    bounds = Bounds(size_bytes=3 * size + 20)
    store = ExperienceStore(tmp_path / "e.sqlite", now=Now(), bounds=bounds)
    store.take_many([(report("a", boundary), f"r{boundary}") for boundary in range(6)])
    assert store.size_bytes > bounds.size_bytes
    assert store.prune() == 3
    assert [message.report_id for _, message in store.reports()] == ["a-r3", "a-r4", "a-r5"]
    assert size < store.size_bytes <= bounds.size_bytes
    assert len(store.sample(10, random.Random(1))) == 0
    store.close()


def test_bounds_hold_without_anybody_asking(tmp_path: Path):
    store = ExperienceStore(tmp_path / "e.sqlite", now=Now(), bounds=Bounds(entries=100))
    for start in range(0, 1024, 64):
        store.take_many(
            [(report("a", number), f"r{number}") for number in range(start, start + 64)]
        )
    assert store.count()["reports"] == 100
    store.close()


def test_many_are_taken_together_or_not_at_all(store: ExperienceStore, monkeypatch):
    arrived = [(report("a", number), f"e{number}") for number in range(3)]
    whole = store._store

    def fails_at_the_third(database, record):
        if record.report_id == "a-r2":
            raise sqlite3.OperationalError("disk full")
        return whole(database, record)

    monkeypatch.setattr(store, "_store", fails_at_the_third)
    with pytest.raises(sqlite3.OperationalError):
        store.take_many(arrived)
    assert (store.count()["reports"], store.size_bytes) == (0, 0)
    monkeypatch.undo()
    assert store.take_many([*arrived, arrived[0]]) == [*[Intake.STORED] * 3, Intake.DUPLICATE]


@pytest.fixture
def filled(store: ExperienceStore) -> ExperienceStore:
    for run in ("a", "b"):
        for boundary in range(40):
            store.take(
                decision(run, boundary, policy="random" if run == "a" else "bandit"),
                f"d{run}{boundary}",
            )
            if boundary % 4 == 0:
                blueprint = "BP009" if boundary % 8 else "BP016"
                store.take(report(run, boundary, blueprint_id=blueprint), f"r{run}{boundary}")
    return store


@pytest.mark.parametrize(
    ("query", "steps"),
    [
        (Query(), 80),
        (Query(run="a"), 40),
        (Query(policy="bandit", reported=True), 10),
        (Query(reported=False), 60),
        (Query(blueprint="BP009", run="b"), 5),
        (Query(outcome="REGRESSION"), 0),
        (Query(operation="GERMINATE"), 0),
        (Query(since=930.0), 20),
        (Query(until=930.0, policy="random"), 30),
    ],
)
def test_a_query_finds_the_steps_it_means(filled: ExperienceStore, query: Query, steps: int):
    found = filled.experiences(query)
    assert len(found) == steps
    first = filled.experiences(query, limit=7)
    rest = filled.experiences(query, after=first[-1][0] if first else 0)
    assert [seq for seq, _ in [*first, *rest]] == [seq for seq, _ in found]


def test_a_sample_is_of_reported_steps_none_twice_and_follows_its_source(filled: ExperienceStore):
    drawn = filled.sample(8, random.Random(5))
    assert len({each.step.decision.decision_id for each in drawn}) == 8
    assert all(each.step.reports for each in drawn)
    again = filled.sample(8, random.Random(5))
    assert [each.step.boundary for each in again] == [each.step.boundary for each in drawn]
    assert len(filled.sample(32, random.Random(5))) == 20


def test_every_reported_step_is_drawn_as_often_as_another(filled: ExperienceStore):
    source, times = random.Random(3), dict.fromkeys(range(20), 0)
    places = {
        each.step.decision.decision_id: place
        for place, each in enumerate(filled.sample(20, source))
    }
    for _ in range(500):
        for each in filled.sample(4, source):
            times[places[each.step.decision.decision_id]] += 1
    assert min(times.values()) > 60
    assert max(times.values()) < 140


def test_a_result_belongs_to_the_last_step_and_goes_with_its_run(tmp_path: Path):
    now = Now()
    store = ExperienceStore(tmp_path / "e.sqlite", now=now, bounds=Bounds(age_s=100))
    for boundary in (2, 0, 1):
        store.take(decision("a", boundary), f"d{boundary}")
    assert store.trajectory("a").terminal_gain is None
    store.tell_result("a", terminal_gain=0.1)
    found = {each.step.boundary: each.reward.terminal for _, each in store.experiences()}
    assert found == {0: None, 1: None, 2: pytest.approx(2.0)}
    with pytest.raises(ValueError, match="not finite"):
        store.tell_result("a", terminal_gain=math.nan)
    now.seconds += 101
    store.prune()
    assert store.terminal_gain("a") is None
    store.close()
