"""Policy updates in runs: asked without effect, taking over once, and taken back when they harm."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from esper_async.runtime.journal import read_journal
from esper_async.tamiyo.command import Cull, Decision
from esper_async.tamiyo.desk_book import Rules
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.policy_file import save_policy
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.from_document import policy_of
from esper_async.tamiyo.policies.graph import graph_document
from esper_async.tamiyo.published import SHIPPED, content_path
from esper_async.tamiyo.view import View
from esper_async.tolaria import policy_choice
from esper_async.tolaria.control import NoControl, Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.policy_updates import PolicyUpdates
from tests.simic.test_registry import LINEAGE
from tests.tolaria.test_deciding import GROWTH, LONG_S, of, patience, task
from tests.tolaria.updated import Installation

EPISODE, BOUNDARY = Rules("episode", 10, 10), Rules("boundary", 10, 10)
STEPS = 4
"""Of an epoch of `task`."""
BAD = 13.0
"""Weight of an ensemble that misbehaves as a test says."""


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be memory, and time for decisions, whatever else the machine is at."""
    monkeypatch.setattr("esper_async.tolaria.hardware.available_bytes", lambda: 10**15)
    for module in ("policy_shadow", "policy_watch"):
        monkeypatch.setattr(f"esper_async.tolaria.{module}.DEADLINE_S", LONG_S)
    monkeypatch.setattr("esper_async.tamiyo.conduct.LATENCY_LIMIT_MS", 1e3 * LONG_S)
    patience(monkeypatch, deadline_s=LONG_S, hang_s=LONG_S)


class Died(BaseException):
    """The process is gone."""


class At(NoControl):
    """Does something once, when a run has reached a step."""

    def __init__(self, step: int, deed: Callable[[], object]) -> None:
        self._step, self._deed, self.done = step, deed, False

    def heartbeat(self, step: int, **progress: Any) -> None:
        if step >= self._step and not self.done:
            self.done = True
            self._deed()

    def poll(self) -> Sequence[Steer]:
        return ()


@dataclass
class Told:
    """What a run told, and its weights at the end."""

    records: list[dict[str, Any]] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return of(self.records, kind)

    def versions(self) -> list[str]:
        """Which version decided, in order, each once."""
        return list(dict.fromkeys(each["policy_version"] for each in self.of("decision")))


def run(
    here: Installation,
    name: str = "run",
    *,
    control: NoControl | None = None,
    epochs: int = 16,
    deterministic: bool = True,
    dies_at: int | None = None,
    policy: str = "learned",
) -> Told:
    """Train; the process dies once it has written a number of records."""
    told = Told()
    folder = here.folder / name
    folder.mkdir(exist_ok=True)

    def listen(record: Any) -> None:
        told.records.append(dict(record))
        if dies_at is not None and record["seq"] >= dies_at:
            raise Died

    updates = PolicyUpdates(policy, 0, here.places, folder)
    engine = Engine(
        task(),
        RunOptions(
            epochs=epochs, deterministic=deterministic, growth=GROWTH, policy=policy, threads=1,
            checkpoint_every=4,
        ),
        folder=folder,
        control=control,
        listener=listen,
        blueprints=["BP002", "BP003"],
        policy=updates.policy,
        updates=updates,
    )  # fmt: skip
    with closing(engine):
        try:
            outcome = engine.run()
        except Died:
            return told
        told.weights = [each.clone() for each in outcome.grower.model.state_dict().values()]
    return told


def journal(here: Installation, name: str = "run") -> list[dict[str, Any]]:
    return list(read_journal(here.folder / name / "journal.jsonl"))


class Misbehaving:
    """Decides as another policy does, but for what a test says."""

    def __init__(self, inner: Policy, deed: Callable[[View], Decision | None]) -> None:
        self._inner, self._deed = inner, deed
        self.name, self.version = inner.name, inner.version
        self.state_dict, self.load_state_dict = inner.state_dict, inner.load_state_dict

    def decide(self, view: View) -> Decision:
        return self._deed(view) or self._inner.decide(view)


def misbehaves(monkeypatch: pytest.MonkeyPatch, deed: Callable[[View], Decision | None]) -> None:
    """Let the ensemble of the weight BAD do something at every boundary."""

    def make(document: Any, seed: int) -> Policy:
        policy = policy_of(document, seed)
        bad = document.get("weights") and document["weights"][0][0] == BAD
        return Misbehaving(policy, deed) if bad else policy

    monkeypatch.setattr(policy_choice, "policy_of", make)


def raises(_: View) -> Decision | None:
    raise RuntimeError("broken")


def culls_nobody(_: View) -> Decision | None:
    return Decision(Cull("s99"), "for no reason")


# -- in the shadow -------------------------------------------------------------------------------


def test_a_staged_policy_is_asked_beside_the_active_one_and_changes_nothing(tmp_path: Path) -> None:
    here = Installation(tmp_path, EPISODE)
    before = run(here, "before")
    update = here.publish_ensemble(3.0)
    told = run(here)
    assert all(map(torch.equal, before.weights, told.weights))
    (shadowed,) = told.of("policy_shadowed")
    assert (shadowed["version"], shadowed["boundary"]) == (update.policy_version, 10)
    new, active = shadowed["tally"]["new"], shadowed["tally"]["active"]
    assert new["decisions"] == active["decisions"] == len(new["risks"]) == 10
    assert len(new["cpu_ms"]) == 10
    assert new["level"] in ("GREEN", "YELLOW", "ORANGE")
    assert 0 < shadowed["tally"]["agreed"] <= 10
    here.fold("run", journal(here))
    assert here.desk.book.active_of("placement-1") == update.policy_version
    assert told.of("policy_activated") == []
    assert len(told.versions()) == 1


def test_what_short_runs_have_seen_adds_up(tmp_path: Path) -> None:
    here = Installation(tmp_path, EPISODE)
    update = here.publish_ensemble(3.0)
    for number in range(2):
        told = run(here, f"run{number}", epochs=6)
        here.fold(f"run{number}", journal(here, f"run{number}"))
    (shadowed,) = told.of("policy_shadowed")
    assert shadowed["tally"]["new"]["decisions"] == 4
    assert here.desk.book.active_of("placement-1") == update.policy_version


@pytest.mark.parametrize(("deed", "words"), [(raises, "broken"), (culls_nobody, "no seed 's99'")])
def test_one_that_raises_or_does_what_is_not_legal_is_rejected_at_its_first_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: Any, words: str
) -> None:
    here = Installation(tmp_path, EPISODE)
    misbehaves(monkeypatch, deed)
    here.publish_ensemble(BAD)
    told = run(here, epochs=4)
    here.fold("run", journal(here))
    (shadowed,) = told.of("policy_shadowed")
    assert shadowed["boundary"] == 1
    assert here.desk.book.history[-1].what == "rejected"
    assert words in here.desk.book.history[-1].reason
    assert len(told.of("decision")) == 4


def test_one_that_does_not_answer_costs_the_run_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(tmp_path, EPISODE)
    monkeypatch.setattr("esper_async.tolaria.policy_shadow.DEADLINE_S", 0.001)
    misbehaves(monkeypatch, lambda _: time.sleep(1.0))
    here.publish_ensemble(BAD)
    told = run(here, epochs=4)
    here.fold("run", journal(here))
    assert "it has not answered" in here.desk.book.history[-1].reason
    assert len(told.of("decision")) == 4


def test_one_that_cannot_even_be_made_is_rejected(tmp_path: Path) -> None:
    here = Installation(tmp_path, EPISODE)
    document = {"kind": "awr", "features": "placement-1", "weights": [["x"]]}
    here.publish({**document, "lineage": LINEAGE})
    told = run(here, epochs=2)
    (shadowed,) = told.of("policy_shadowed")
    assert "no policy can be made" in shadowed["tally"]["new"]["fault"]


# -- taking over ---------------------------------------------------------------------------------


def test_a_run_under_way_keeps_its_policy_unless_boundaries_are_configured(tmp_path: Path) -> None:
    here = Installation(tmp_path, EPISODE)
    told = run(here, control=At(6 * STEPS, lambda: here.let_through_ensemble(3.0)))
    assert told.of("policy_activated") == []
    assert len(told.versions()) == 1
    assert run(here, "next").versions() != told.versions()


def test_with_boundaries_configured_it_takes_over_at_the_next_one_and_is_watched(
    tmp_path: Path,
) -> None:
    here = Installation(tmp_path, BOUNDARY)
    told = run(here, control=At(6 * STEPS - 1, lambda: here.let_through_ensemble(3.0)), epochs=20)
    (activated,) = told.of("policy_activated")
    assert (activated["boundary"], activated["former"]) == (6, SHIPPED)
    first, second = told.versions()
    by = {each["boundary"]: each["policy_version"] for each in told.of("decision")}
    assert [by[n] for n in (5, 6, 20)] == [first, second, second]
    (watched,) = told.of("policy_watched")
    assert (watched["boundary"], watched["regressions"]) == (15, [])
    assert len(watched["beside"]["risks"]) == 10
    here.fold("run", journal(here))
    assert here.desk.book.watched(activated["version"]) is None
    reports = told.of("field_report")
    assert {report["policy_version"] for report in reports} == {first, second}
    given = {each["command"]["id"]: each["policy_version"] for each in told.of("decision")}
    assert all(given[report["command_id"]] == report["policy_version"] for report in reports)


def test_a_run_that_dies_after_a_take_over_repeats_it_bitwise_and_once(tmp_path: Path) -> None:
    straight = Installation(tmp_path / "straight", BOUNDARY)
    broken = Installation(tmp_path / "broken", BOUNDARY)
    deed = At(6 * STEPS - 1, lambda: straight.let_through_ensemble(3.0))
    whole = run(straight, control=deed, epochs=12)
    (activated,) = whole.of("policy_activated")
    for dies_at in (activated["seq"], activated["seq"] + 1, activated["seq"] + 5):
        deed = At(6 * STEPS - 1, lambda: broken.let_through_ensemble(3.0))
        deed.done = broken.desk.book.active_of("placement-1") != SHIPPED
        assert run(broken, control=deed, epochs=12, dies_at=dies_at).weights == []
    resumed = run(broken, epochs=12)
    assert all(map(torch.equal, whole.weights, resumed.weights))
    taken = of(journal(broken), "policy_activated")
    assert [each["boundary"] for each in taken] == [6]


def test_wherever_a_run_dies_an_update_is_lost_by_none_and_taken_once(tmp_path: Path) -> None:
    here = Installation(tmp_path, BOUNDARY)
    names = [f"run{number}" for number in range(12)]
    for number, name in enumerate(names):
        if number == 0:
            here.let_through_ensemble(1.0)
        deed = At(3 * STEPS, lambda weight=2.0 + number: here.let_through_ensemble(weight))
        run(here, name, control=deed, epochs=8, dies_at=8 + 3 * number)
        run(here, name, epochs=8)
        taken = of(journal(here, name), "policy_activated")
        assert [each["version"] for each in taken] == [here.desk.book.active_of("placement-1")]
        boundaries = [each["boundary"] for each in of(journal(here, name), "decision")]
        assert boundaries == list(range(1, 9))


def test_a_graph_policy_takes_over_from_another_and_is_repeated_bitwise(tmp_path: Path) -> None:
    torch.manual_seed(5)
    path = tmp_path / "taught.policy"
    save_policy(PolicyNetwork(), path, name="taught", lineage={})
    document = graph_document(path, lineage=LINEAGE)
    found = []
    for name in ("straight", "broken"):
        here = Installation(tmp_path / name, BOUNDARY)
        deed = At(6 * STEPS - 1, lambda here=here: here.let_through(document))
        if name == "broken":
            at = found[0].of("policy_activated")[0]["seq"] + 4
            assert run(here, control=deed, epochs=10, dies_at=at, policy="gnn").weights == []
            deed.done = True
        found.append(run(here, control=deed, epochs=10, policy="gnn"))
    whole, resumed = found
    assert [version.partition("+")[0] for version in whole.versions()] == ["imitation-1", "taught"]
    assert all(map(torch.equal, whole.weights, resumed.weights))


# -- taken back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", [raises, culls_nobody])
def test_one_that_does_harm_after_it_took_over_gives_way_at_the_next_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: Any
) -> None:
    here = Installation(tmp_path, EPISODE)
    here.let_through_ensemble(1.0)
    misbehaves(monkeypatch, deed)
    bad = here.let_through_ensemble(BAD)
    told = run(here, epochs=6)
    (watched,) = told.of("policy_watched")
    (activated,) = told.of("policy_activated")
    assert (watched["version"], watched["boundary"], watched["gives_way"]) == (bad, 1, True)
    assert (activated["former"], activated["boundary"]) == (bad, 2)
    assert len(told.versions()) == 2
    here.fold("run", journal(here))
    book = here.desk.book
    assert book.active_of("placement-1") == activated["version"]
    assert [each.id for each in here.desk.to_withdraw()] == [bad]
    assert book.trouble["placement-1"].id == bad
    assert run(here, "next", epochs=6).of("policy_watched") == []


def test_a_riskier_one_gives_way_and_a_slower_one_only_where_the_clock_may_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (limit, deterministic, gives_way) in enumerate(
        [
            ("MOST_RISK_RISE", True, True),
            ("SLOWER", True, False),
            ("SLOWER", False, True),
        ]
    ):
        here = Installation(tmp_path / str(number), EPISODE)
        bad = here.let_through_ensemble(3.0)
        with monkeypatch.context() as patched:
            patched.setattr("esper_async.tamiyo.conduct.LATENCY_LIMIT_MS", 0.0)
            patched.setattr("esper_async.tamiyo.conduct.SLOWER", 1e9)
            patched.setattr(f"esper_async.tamiyo.conduct.{limit}", -1e9)
            told = run(here, epochs=14, deterministic=deterministic)
        (watched,) = told.of("policy_watched")
        assert (watched["gives_way"], len(watched["regressions"])) == (gives_way, 1)
        assert len(told.of("policy_activated")) == gives_way
        here.fold("run", journal(here))
        assert here.desk.book.active_of("placement-1") == SHIPPED
        assert [each.id for each in here.desk.to_withdraw()] == [bad]


def test_one_that_hangs_in_a_deterministic_run_gives_way_when_the_run_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(tmp_path, EPISODE)
    patience(monkeypatch, deadline_s=LONG_S, hang_s=0.5)
    misbehaves(monkeypatch, lambda view: time.sleep(1.5) if view.boundary == 5 else None)
    bad = here.let_through_ensemble(BAD)
    told = run(here, epochs=8)
    (watched,) = told.of("policy_watched")
    assert "hang limit" in watched["regressions"][0]
    (back,) = told.of("rollback")
    assert (back["cause"], back["to_boundary"]) == ("hang", 4)
    (activated,) = told.of("policy_activated")
    assert (activated["boundary"], activated["former"]) == (5, bad)
    assert told.of("controller_replaced") == []
    assert len(told.versions()) == 2


def test_what_gave_way_does_not_come_back_when_the_run_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(tmp_path, BOUNDARY)
    misbehaves(monkeypatch, lambda view: culls_nobody(view) if view.boundary == 6 else None)
    bad = here.let_through_ensemble(BAD)
    whole = run(here, "whole", epochs=10)
    (watched,) = whole.of("policy_watched")
    for dies_at in (watched["seq"], watched["seq"] + 1, watched["seq"] + 2, watched["seq"] + 6):
        assert run(here, "broken", epochs=10, dies_at=dies_at).weights == []
    resumed = run(here, "broken", epochs=10)
    assert all(map(torch.equal, whole.weights, resumed.weights))
    taken = of(journal(here, "broken"), "policy_activated")
    assert [(each["boundary"], each["former"]) for each in taken] == [(7, bad)]
    assert len(of(journal(here, "broken"), "policy_watched")) == 1


def test_what_the_desk_takes_back_leaves_runs_under_way_where_boundaries_are_configured(
    tmp_path: Path,
) -> None:
    here = Installation(tmp_path, BOUNDARY)
    bad = here.let_through_ensemble(1.0)
    told = run(here, control=At(5 * STEPS, lambda: here.put_back(bad)), epochs=8)
    (activated,) = told.of("policy_activated")
    assert (activated["version"], activated["former"]) == (SHIPPED, bad)


def test_one_whose_file_is_damaged_when_it_is_to_take_over_does_not(tmp_path: Path) -> None:
    here = Installation(tmp_path, BOUNDARY)

    def let_through_and_damage() -> None:
        version = here.let_through_ensemble(3.0)
        path = content_path(here.places.registry, here.desk.book.versions[version].sha256)
        path.write_bytes(path.read_bytes()[:-1])

    told = run(here, control=At(3 * STEPS, let_through_and_damage), epochs=6)
    assert (told.of("policy_activated"), len(told.versions())) == ([], 1)
    assert len(told.of("decision")) == 6
