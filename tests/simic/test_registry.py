"""The registry: what passed decides, any earlier one again; what was changed is not believed."""

import itertools
import json
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from esper_async.leyline.signing import Signer
from esper_async.simic.registry import LineageError, NotValidatedError, PolicyRegistry
from esper_async.tamiyo import shipped
from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.published import SHIPPED, content_path, registry_path

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
FEATURES = "placement-1"
LINEAGE = {"data": "d1", "reward_version": 2, "code": "c1", "command": "learn", "runs": ["r1"]}


def policy(number: int, features: str = FEATURES) -> dict[str, Any]:
    return {"kind": "awr", "features": features, "weights": [number], "lineage": LINEAGE}


def record(active: str, *, passes: bool = True, **more: Any) -> dict[str, Any]:
    return {"active": active, "passes": passes, "reasons": [] if passes else ["worse"], **more}


def registry(folder: Path, key: bytes = KEY) -> PolicyRegistry:
    ticks = itertools.count(1.0)
    return PolicyRegistry(folder / "registry", Signer(key), now=lambda: next(ticks))


def active(found: PolicyRegistry, features: str = FEATURES) -> str:
    return found.book().active_of(features)


def test_what_passed_decides_with_all_it_came_from_and_what_failed_is_kept(tmp_path: Path) -> None:
    kept = registry(tmp_path)
    assert active(kept) == SHIPPED
    good = kept.submit(policy(1), record(SHIPPED))
    bad = kept.submit(policy(2), record(good.id, passes=False))
    assert (active(kept), good.state, bad.state) == (good.id, "active", "refused")
    assert good.lineage == {name: LINEAGE[name] for name in LINEAGE if name != "runs"}
    assert (good.parent, bad.parent) == (SHIPPED, good.id)
    assert kept.document(good.id) == policy(1)
    assert kept.record(bad.id)["reasons"] == ["worse"]
    assert [row["id"] for row in kept.policies()] == [bad.id, good.id, SHIPPED]
    told = [(event.id, event.what, event.reason) for event in kept.book().history]
    assert told == [(good.id, "published", "it passed the gate"), (bad.id, "refused", "worse")]


def test_what_did_not_pass_can_never_be_activated_until_it_does(tmp_path: Path) -> None:
    kept = registry(tmp_path)
    bad = kept.submit(policy(1), record(SHIPPED, passes=False))
    with pytest.raises(NotValidatedError, match="did not pass the gate"):
        kept.activate(bad.id)
    again = kept.submit(policy(1), record(SHIPPED, replay="of more runs"))
    assert (again.id, again.state, len(again.records)) == (bad.id, "active", 2)


def test_only_a_pass_is_a_pass(tmp_path: Path) -> None:
    kept = registry(tmp_path)
    for passes in (1, "true", [True]):
        entry = kept.submit(policy(1), {**record(SHIPPED, passes=False), "passes": passes})
        assert entry.state == "refused"


def test_one_that_was_compared_with_another_than_the_active_is_not_published(
    tmp_path: Path,
) -> None:
    kept = registry(tmp_path)
    first = kept.submit(policy(1), record(SHIPPED))
    with pytest.raises(NotValidatedError, match=f"{first.id} has become active"):
        kept.submit(policy(2), record(SHIPPED))
    assert list(kept.book().entries) == [first.id]


def test_every_version_of_the_features_has_an_active_policy_of_its_own(tmp_path: Path) -> None:
    kept = registry(tmp_path)
    one = kept.submit(policy(1), record(SHIPPED))
    other = kept.submit(policy(1, "placement-2"), record(SHIPPED))
    assert (active(kept), active(kept, "placement-2")) == (one.id, other.id)
    kept.activate(SHIPPED, features="placement-2")
    assert (active(kept), active(kept, "placement-2")) == (one.id, SHIPPED)


def test_any_earlier_policy_is_put_back_and_the_way_back_is_walked_once(tmp_path: Path) -> None:
    kept = registry(tmp_path)
    one = kept.submit(policy(1), record(SHIPPED)).id
    two = kept.submit(policy(2), record(one)).id
    three = kept.submit(policy(3), record(two)).id
    content_path(tmp_path / "registry", kept.book().entries[two].sha256).write_text("{}")
    assert kept.roll_back(FEATURES) == one
    kept.activate(three)
    assert [kept.roll_back(FEATURES) for _ in range(3)] == [one, SHIPPED, SHIPPED]
    kept.activate(one)
    assert active(kept) == one
    kept.activate(SHIPPED)
    assert active(kept) == SHIPPED
    with pytest.raises(LookupError, match="known: awr-"):
        kept.activate("awr-nobody")


def test_a_policy_that_does_not_say_what_it_came_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="data, code"):
        registry(tmp_path).submit(
            {**policy(1), "lineage": {"reward_version": 2, "command": "learn"}}, record(SHIPPED)
        )


@pytest.mark.parametrize("what", ["active", "state", "sha256", "signature", "format", "cut"])
def test_a_book_that_was_changed_is_refused_whole(tmp_path: Path, what: str) -> None:
    kept = registry(tmp_path)
    bad = kept.submit(policy(1), record(SHIPPED, passes=False))
    path = tmp_path / "registry" / "registry.json"
    told = json.loads(path.read_text())
    entry = told["book"]["entries"][bad.id]
    changes: Mapping[str, Any] = {
        "active": lambda: told["book"]["active"].update({FEATURES: bad.id}),
        "state": lambda: entry.update(state="retired"),
        "sha256": lambda: entry.update(sha256="0" * 64),
        "signature": lambda: told.update(signature="00" * 32),
        "format": lambda: told.update(format="another"),
        "cut": lambda: None,
    }
    changes[what]()
    path.write_text(json.dumps(told)[: 100 if what == "cut" else None])
    for attempt in (
        kept.book,
        kept.policies,
        lambda: kept.activate(bad.id),
        lambda: kept.submit(policy(2), record(SHIPPED)),
    ):
        with pytest.raises(CorruptPolicyError, match=r"registry\.json"):
            attempt()


def test_a_policy_file_that_was_changed_is_refused_and_listed_as_damaged(tmp_path: Path) -> None:
    kept = registry(tmp_path)
    one = kept.submit(policy(1), record(SHIPPED))
    kept.submit(policy(2), record(one.id))
    path = content_path(tmp_path / "registry", one.sha256)
    path.write_text(path.read_text().replace("[1]", "[9]"))
    for attempt in (lambda: kept.document(one.id), lambda: kept.activate(one.id)):
        with pytest.raises(CorruptPolicyError, match="changed; put back"):
            attempt()
    assert [row["state"] for row in kept.policies()] == ["active", "damaged", "retired"]


def test_another_key_reads_nothing_and_the_one_that_replaces_ours_signs_anew(
    tmp_path: Path,
) -> None:
    kept = registry(tmp_path)
    one = kept.submit(policy(1), record(SHIPPED))
    with pytest.raises(CorruptPolicyError, match="not of this installation's key"):
        registry(tmp_path, OTHER).book()
    rotated = Signer(OTHER, also_accept=[(KEY, 1e12)])
    PolicyRegistry(tmp_path / "registry", rotated).begin()
    assert active(registry(tmp_path, OTHER)) == one.id


def test_which_policy_comes_along_is_signed_at_the_first_start_and_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = registry(tmp_path)
    for _ in range(2):
        kept.begin()
    assert [(event.id, event.reason) for event in kept.book().history] == [
        (SHIPPED, shipped.SHIPPED_SHA256)
    ]
    monkeypatch.setattr(shipped, "SHIPPED_SHA256", "0" * 64)
    with pytest.raises(CorruptPolicyError, match=r"shipped\.json"):
        kept.begin()


def test_the_key_is_the_state_directorys_own_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    one = PolicyRegistry.of(state).submit(policy(1), record(SHIPPED))
    assert stat.S_IMODE((state / "leyline.key").stat().st_mode) == 0o600
    assert active(PolicyRegistry.of(state)) == one.id
    (state / "leyline.key").chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        PolicyRegistry.of(state)


_DIES = """
import os, signal, sys
from pathlib import Path
from esper_async.runtime import files
from esper_async.simic import registry
from tests.simic.test_registry import SHIPPED, policy, record

state, steps, before = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "before"
write = registry.write_atomically

def dies(path, content):
    global steps
    steps -= 1
    if steps == 0 and not before:
        write(path, content)
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)

registry.write_atomically = dies
registry.PolicyRegistry.of(state).submit(policy(2), record(sys.argv[4]))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_process_that_dies_while_it_publishes_leaves_the_old_or_the_new_policy_active(
    tmp_path: Path, step: int, moment: str
) -> None:
    one = PolicyRegistry.of(tmp_path).submit(policy(1), record(SHIPPED))
    arguments = [str(tmp_path), str(step), moment, one.id]
    died = subprocess.run([sys.executable, "-c", _DIES, *arguments], check=False, timeout=60)
    assert died.returncode == -9
    kept = PolicyRegistry.of(tmp_path)
    new = kept.submit(policy(2), record(one.id)) if (step, moment) != (3, "after") else None
    assert active(kept) == (new.id if new else kept.policies()[0]["id"]) != one.id
    assert [row["state"] for row in kept.policies()] == ["active", "retired", "retired"]
    assert len(kept.book().history) == 2


_PUBLISHES = """
import sys
from pathlib import Path
from esper_async.simic.registry import PolicyRegistry
from tests.simic.test_registry import SHIPPED, policy, record

first = int(sys.argv[2])
for number in range(first, first + 20):
    PolicyRegistry.of(Path(sys.argv[1])).submit(policy(number), record(SHIPPED, passes=False))
"""


def test_two_processes_that_publish_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    PolicyRegistry.of(tmp_path)
    started = [
        subprocess.Popen([sys.executable, "-c", _PUBLISHES, str(tmp_path), str(first)])
        for first in (0, 100)
    ]
    assert [each.wait(60) for each in started] == [0, 0]
    assert len(PolicyRegistry.of(tmp_path).book().entries) == 40


def test_the_supervisor_can_look_without_torch(tmp_path: Path) -> None:
    code = "import sys, esper_async.simic.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert registry_path(tmp_path) == tmp_path / "simic" / "registry"


class Registry(RuleBasedStateMachine):
    """A model of what must be active, beside the registry, whatever is asked in whatever order."""

    numbers = st.integers(0, 5)

    @initialize()
    def begin(self) -> None:
        self.kept_folder = tempfile.TemporaryDirectory()
        self.kept = registry(Path(self.kept_folder.name))
        self.passed: dict[str, bool] = {}
        self.active = SHIPPED
        self.before: list[str] = []

    def teardown(self) -> None:
        self.kept_folder.cleanup()

    def decides(self, policy_id: str) -> None:
        if policy_id != self.active:
            self.before.append(self.active)
            self.active = policy_id

    @rule(number=numbers, passes=st.booleans())
    def submit(self, number: int, passes: bool) -> None:
        told = record(self.active, passes=passes, at=len(self.kept.book().history))
        entry = self.kept.submit(policy(number), told)
        self.passed[entry.id] = passes or self.passed.get(entry.id, False)
        if passes:
            self.decides(entry.id)

    @rule(data=st.data())
    def activate(self, data: st.DataObject) -> None:
        policy_id = data.draw(st.sampled_from([SHIPPED, *self.passed]))
        if self.passed.get(policy_id, True):
            self.kept.activate(policy_id, features=FEATURES)
            self.decides(policy_id)
        else:
            with pytest.raises(NotValidatedError):
                self.kept.activate(policy_id)

    @precondition(lambda self: self.before)
    @rule()
    def roll_back(self) -> None:
        self.active = self.before.pop()
        assert self.kept.roll_back(FEATURES) == self.active

    @invariant()
    def one_is_active_and_it_has_passed(self) -> None:
        book = self.kept.book()
        assert book.active_of(FEATURES) == self.active
        states = {entry.id: entry.state for entry in book.entries.values()}
        assert [each for each, state in states.items() if state == "active"] == [
            each for each in states if each == self.active
        ]
        assert {each for each, state in states.items() if state != "refused"} == {
            each for each, passed in self.passed.items() if passed
        }


Registry.TestCase.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestRegistry = Registry.TestCase
