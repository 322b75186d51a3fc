"""The desk: what is verified is staged, what was sound decides, what does worse is taken back."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esper_async.leyline import PolicyUpdate
from esper_async.leyline.signing import Signer
from esper_async.simic.announcing import updates_of
from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo import policy_desk
from esper_async.tamiyo.conduct import Conduct
from esper_async.tamiyo.desk_book import Rules, read_desk
from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.policy_desk import PolicyDesk, PolicyUpdateRefusedError
from esper_async.tamiyo.published import SHIPPED, content_path
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.shadow_tally import ShadowTally
from tests.simic.test_registry import FEATURES, KEY, OTHER, policy, record, registry

STATES = 20
GREEN = RiskLevel.GREEN


class House:
    """A registry, a desk, and the newest update; runs are only told of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry: PolicyRegistry = registry(folder)
        self._ticks = itertools.count(1_000.0)
        self._numbers = itertools.count(1)
        self.desk = self.opened()

    def opened(self, key: bytes = KEY) -> PolicyDesk:
        path, now = self.folder / "policies.json", lambda: next(self._ticks)
        desk = PolicyDesk(path, self.folder / "registry", Signer(key), rules=Rules(), now=now)
        desk.open()
        return desk

    def publish(self, number: int, features: str = FEATURES) -> PolicyUpdate:
        active = self.registry.book().active_of(features)
        self.registry.submit(policy(number, features), record(active))
        return self.update(features)

    def update(self, features: str = FEATURES) -> PolicyUpdate:
        (found,) = [u for u in updates_of(self.registry.book()) if u.schema_digest == features]
        return found

    def tell(self, kind: str, seq: int | None = None, **fields: Any) -> int:
        number = seq or next(self._numbers)
        place = {"kind": kind, "seq": number, "boundary": 9, "features": FEATURES}
        self.desk.fold("r1", {**place, **fields})
        return number

    def shadowed(self, update: PolicyUpdate, tally: ShadowTally, seq: int | None = None) -> int:
        fields = {"version": update.policy_version, "update": update.update_id}
        return self.tell("policy_shadowed", seq, tally=tally.to_json(), **fields)

    def watched(self, version: str, *regressions: str) -> int:
        conduct = conducted(10).to_json()
        fields = {"version": version, "gives_way": bool(regressions), "conduct": conduct}
        return self.tell("policy_watched", regressions=list(regressions), **fields)

    def let_through(self, number: int) -> str:
        update = self.publish(number)
        self.desk.take(update)
        self.shadowed(update, sound())
        return update.policy_version

    @property
    def active(self) -> str:
        return self.desk.book.active_of(FEATURES)

    @property
    def last(self) -> tuple[str, str]:
        event = self.desk.book.history[-1]
        return event.what, event.reason


def conducted(count: int, *, ms: float = 1.0, risk: float = 0.1) -> Conduct:
    conduct = Conduct()
    for _ in range(count):
        conduct.add(cpu_ms=ms, risk=(risk, GREEN))
    return conduct


def sound(count: int = STATES) -> ShadowTally:
    return ShadowTally(conducted(count), conducted(count), agreed=count)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield House(tmp_path)


def test_an_update_is_staged_asked_and_then_decides(house: House) -> None:
    update = house.publish(1)
    assert house.desk.take(update)
    staged = house.desk.book.staged_of(FEATURES)
    assert staged is not None
    assert (staged.id, staged.stage, house.active) == (update.policy_version, "staged", SHIPPED)
    house.shadowed(update, sound(STATES - 1))
    assert house.active == SHIPPED
    house.shadowed(update, sound(1))
    assert house.active == update.policy_version
    assert house.desk.book.staged_of(FEATURES) is None
    assert house.desk.book.watched(house.active) is not None


def test_an_update_that_comes_again_changes_nothing(house: House) -> None:
    update = house.publish(1)
    assert [house.desk.take(update) for _ in range(3)] == [True, False, False]
    reopened = house.opened()
    assert not reopened.take(update)
    assert [event.what for event in reopened.book.history] == ["staged"]


def changed(update: PolicyUpdate, **fields: Any) -> PolicyUpdate:
    other = PolicyUpdate()
    other.CopyFrom(update)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema_digest": "placement-0"}, "this program has"),
        ({"policy_version": "awr-000000000000"}, "the registry does not say so"),
        ({"artifact_sha256": bytes(32)}, "checksum"),
        ({"artifact_sha256": b""}, "missing"),
        ({"validation_id": "made-up"}, "validation record"),
    ],
)
def test_what_the_registry_does_not_stand_behind_is_refused_with_the_reason(
    house: House, fields: dict[str, Any], words: str
) -> None:
    update = changed(house.publish(1), update_id="forged", **fields)
    with pytest.raises(PolicyUpdateRefusedError, match=words):
        house.desk.take(update)
    assert house.last[0] == "refused"
    assert words in house.last[1]
    assert house.desk.book.staged == {}


def test_an_old_update_that_is_sent_again_does_not_bring_an_old_policy_back(house: House) -> None:
    old = house.publish(1)
    house.let_through(2)
    with pytest.raises(PolicyUpdateRefusedError, match="is active there"):
        house.desk.take(changed(old, update_id="sent again"))


def test_a_policy_whose_file_is_damaged_is_refused(house: House) -> None:
    update = house.publish(1)
    path = content_path(house.folder / "registry", update.artifact_sha256.hex())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PolicyUpdateRefusedError, match="checksum"):
        house.desk.take(update)


def test_a_registry_that_another_key_signed_stands_behind_nothing(house: House) -> None:
    update = house.publish(1)
    book = json.loads((house.folder / "registry" / "registry.json").read_text())
    book["signature"] = Signer(OTHER).sign(b"").hex()
    (house.folder / "registry" / "registry.json").write_text(json.dumps(book))
    with pytest.raises(PolicyUpdateRefusedError, match="signature"):
        house.desk.take(update)


def test_a_file_that_says_other_features_than_its_entry_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = house.publish(1)
    for told, words in (
        ({"features": "placement-0", "kind": "awr"}, "placement-0"),
        ({"features": FEATURES, "kind": "oracle"}, "oracle"),
    ):
        monkeypatch.setattr(policy_desk, "read_content", lambda *_, told=told: told)
        with pytest.raises(PolicyUpdateRefusedError, match=words):
            house.desk.take(changed(update, update_id=words))


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (conducted(STATES, ms=30.0), "30.0 ms"),
        (conducted(STATES, risk=0.4), "0.30 above"),
    ],
)
def test_one_that_is_slow_or_risky_in_the_shadow_is_rejected(
    house: House, new: Conduct, words: str
) -> None:
    update = house.publish(1)
    house.desk.take(update)
    house.shadowed(update, ShadowTally(new, conducted(STATES)))
    assert (house.active, house.last[0]) == (SHIPPED, "rejected")
    assert words in house.last[1]
    assert house.desk.book.trouble[FEATURES].id == update.policy_version


def test_one_illegal_command_or_error_in_the_shadow_is_enough(house: House) -> None:
    for number, wrong in enumerate(("illegal", "error")):
        update = house.publish(number)
        house.desk.take(update)
        new = conducted(2)
        if wrong == "illegal":
            new.add(cpu_ms=1.0, risk=(0.1, GREEN), illegal="there is no seed 's9'")
        else:
            new.failed("RuntimeError: boom")
        house.shadowed(update, ShadowTally(new, conducted(3)))
        assert (house.active, house.last[0]) == (SHIPPED, "rejected")
        assert ("s9" in house.last[1]) is (wrong == "illegal")
        for version in house.desk.to_withdraw():
            house.registry.withdraw(version.id, FEATURES, reason=version.reason)
            house.desk.withdrawn(version.id)


def test_one_that_does_worse_is_rolled_back_and_the_registry_hears_of_it(house: House) -> None:
    first, second = house.let_through(1), house.let_through(2)
    house.watched(second, "too risky")
    assert house.active == first
    (rejected,) = house.desk.to_withdraw()
    assert (rejected.id, rejected.reason) == (second, "in run r1: too risky")
    house.registry.withdraw(rejected.id, FEATURES, reason=rejected.reason)
    house.desk.withdrawn(rejected.id)
    assert house.desk.to_withdraw() == []
    assert house.registry.book().active_of(FEATURES) == first
    back = house.update()
    assert (back.policy_version, back.rollback) == (first, True)
    assert house.desk.take(back)
    assert (house.active, house.last[0]) == (first, "confirmed")
    assert FEATURES in house.desk.book.trouble
    house.let_through(3)
    assert FEATURES not in house.desk.book.trouble


def test_another_that_became_active_is_not_withdrawn_with_the_one_before(house: House) -> None:
    one = house.let_through(1)
    house.watched(one, "too slow")
    two = house.publish(2).policy_version
    house.registry.withdraw(one, FEATURES, reason="late")
    assert house.registry.book().active_of(FEATURES) == two


def test_a_rejected_one_is_passed_over_on_the_way_back(house: House) -> None:
    first = house.let_through(1)
    second = house.let_through(2)
    third = house.let_through(3)
    house.watched(third, "worse")
    house.watched(second, "worse")
    house.watched(first, "worse")
    assert house.active == SHIPPED
    assert house.desk.book.previous[FEATURES] == []


def test_a_record_that_is_read_again_is_taken_in_once(house: House) -> None:
    one = house.let_through(1)
    seq = house.watched(one, "worse")
    house.registry.withdraw(one, FEATURES, reason="worse")
    again = changed(house.update(), update_id="by hand")
    house.registry.activate(one)
    assert house.desk.take(house.update())
    assert again.policy_version == SHIPPED
    house.shadowed(house.update(), sound())
    assert house.active == one
    fields = {"version": one, "gives_way": True, "conduct": conducted(10).to_json()}
    house.tell("policy_watched", seq, regressions=["worse"], **fields)
    assert house.active == one


def test_one_that_was_sound_before_is_restored_without_being_asked_again(house: House) -> None:
    first, second = house.let_through(1), house.let_through(2)
    house.watched(second)
    house.registry.activate(first)
    assert house.desk.take(house.update())
    assert (house.active, house.last) == (first, ("activated", "it has decided before"))
    house.registry.activate(SHIPPED, features=FEATURES)
    assert house.desk.take(house.update())
    assert house.active == SHIPPED


def test_a_newer_update_takes_the_place_of_one_that_waits(house: House) -> None:
    waiting = house.publish(1)
    house.desk.take(waiting)
    newer = house.publish(2)
    house.desk.take(newer)
    house.shadowed(waiting, sound())
    assert house.active == SHIPPED
    staged = house.desk.book.staged_of(FEATURES)
    assert staged is not None
    assert staged.id == newer.policy_version


def test_one_that_has_been_watched_for_long_enough_is_settled(house: House) -> None:
    one = house.let_through(1)
    house.watched(one)
    assert house.desk.book.watched(one) is None
    assert house.last[0] == "settled"
    house.tell("policy_activated", version=one, reason="it is active")
    assert house.last == ("took over", "in run r1, at boundary 9: it is active")


def test_a_record_that_does_not_hold_what_it_must_changes_nothing(house: House) -> None:
    update = house.publish(1)
    house.desk.take(update)
    before = house.desk.book.versions
    for tally in ({}, {"new": {"more": 1}, "active": {}, "agreed": 0}, None):
        fields = {"version": update.policy_version, "update": update.update_id}
        seq = house.tell("policy_shadowed", tally=tally, **fields)
        assert house.desk.folded_of("r1") == seq
    house.tell("policy_watched", regressions=[])
    assert house.desk.book.versions == before
    assert house.last[0] == "staged"


def test_a_figure_that_is_no_number_in_the_journal_is_no_pass(house: House) -> None:
    update = house.publish(1)
    house.desk.take(update)
    tally = sound().to_json()
    tally["new"]["risks"][0] = None
    fields = {"version": update.policy_version, "update": update.update_id}
    house.tell("policy_shadowed", tally=tally, **fields)
    assert house.last[0] == "rejected"


def test_features_are_kept_apart(house: House) -> None:
    graph = house.publish(1, "graph-2")
    house.desk.take(graph)
    assert house.desk.book.staged_of(FEATURES) is None
    staged = house.desk.book.staged_of("graph-2")
    assert staged is not None
    assert staged.id == graph.policy_version


def test_a_desk_that_was_changed_is_not_believed_and_begun_anew(house: House) -> None:
    house.let_through(1)
    path = house.folder / "policies.json"
    assert read_desk(path, Signer(KEY)) is not None
    path.write_text(path.read_text().replace("active", "aktive", 1))
    with pytest.raises(CorruptPolicyError, match="signature"):
        read_desk(path, Signer(KEY))
    assert house.opened().book.active_of(FEATURES) == SHIPPED
    path.write_text("[]")
    with pytest.raises(CorruptPolicyError, match="cannot be believed"):
        read_desk(path, Signer(KEY))


def test_a_disk_that_refuses_changes_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    update = house.publish(1)

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(policy_desk, "write_atomically", full)
        with pytest.raises(OSError, match="no space"):
            house.desk.take(update)
    assert house.desk.book.heard == []
    assert house.desk.take(update)
