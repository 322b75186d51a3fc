"""Which version of a learned policy decides in a run: what the desk lets, kept to the run's end."""

import json
from pathlib import Path

import pytest
import torch

from esper_async.tamiyo import shipped as shipped_policy
from esper_async.tamiyo.errors import CorruptPolicyError, PolicyFileError
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.policy_file import save_policy
from esper_async.tamiyo.policies.from_document import learned_of, policy_of
from esper_async.tamiyo.policies.graph import graph_document
from esper_async.tamiyo.policies.learned import FeatureVersionError, digest_of, document_of
from esper_async.tamiyo.policies.linear_belief import LinearBelief
from esper_async.tamiyo.published import KINDS, SHIPPED, content_path
from esper_async.tamiyo.shipped import shipped_document
from esper_async.tolaria import policy_choice
from esper_async.tolaria.policy_choice import Start, begin
from tests.simic.test_registry import LINEAGE
from tests.tolaria.updated import Installation, ensemble


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shipped.policy"
    save_policy(PolicyNetwork(), path, name="shipped", lineage={})
    monkeypatch.setattr(policy_choice, "SHIPPED_FILE", path)
    return path


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def begun(here: Installation, run: str, name: str = "learned") -> Start:
    folder = here.folder / run
    folder.mkdir(exist_ok=True)
    return begin(name, here.places, run_dir=folder)


def decides(here: Installation, run: str, name: str = "learned") -> str:
    return begun(here, run, name).chosen.make(0).version


def graph(here: Installation, name: str) -> tuple[str, str]:
    """Let a graph policy through; return its id and its version."""
    torch.manual_seed(sum(name.encode()))
    path = here.folder / f"{name}.policy"
    header = save_policy(PolicyNetwork(), path, name=name, lineage={})
    return here.let_through(graph_document(path, lineage=LINEAGE)), header.version


def test_a_run_takes_what_is_active_and_a_resumed_one_keeps_its_own(here: Installation) -> None:
    shipped = policy_of(shipped_document(), 0).version
    assert decides(here, "first") == shipped
    one = here.let_through_ensemble(1.0)
    two = here.let_through_ensemble(2.0)
    assert begun(here, "second").chosen.id == two
    here.put_back(two)
    assert begun(here, "third").chosen.id == one
    assert decides(here, "first") == shipped
    assert begun(here, "second").chosen.id == two
    pinned = json.loads((here.folder / "first" / "policy.json").read_text())
    assert pinned["version"] == SHIPPED


def test_what_was_published_decides_only_once_the_desk_has_let_it_through(
    here: Installation,
) -> None:
    here.publish(document_of(ensemble(1.0), lineage=LINEAGE))
    assert begun(here, "early").chosen.id == SHIPPED


def test_graph_policies_have_updates_of_their_own(here: Installation) -> None:
    assert decides(here, "early", "gnn").startswith("shipped+")
    _, version = graph(here, "one")
    assert decides(here, "later", "gnn") == version
    assert decides(here, "early", "gnn").startswith("shipped+")
    assert begun(here, "other").chosen.id == SHIPPED


def test_one_that_is_to_be_watched_begins_with_what_decided_before(here: Installation) -> None:
    one = here.let_through_ensemble(1.0)
    start = begun(here, "run")
    assert start.former is not None
    assert (start.chosen.id, start.former.id) == (one, SHIPPED)
    here.settle(one)
    assert begun(here, "run") == start
    assert begun(here, "later").former is None


@pytest.mark.parametrize("name", ["learned", "gnn"])
def test_a_published_file_that_was_changed_gives_way_to_the_one_before(
    here: Installation, name: str
) -> None:
    if name == "gnn":
        (first, _), (last, _) = graph(here, "one"), graph(here, "two")
    else:
        first, last = here.let_through_ensemble(1.0), here.let_through_ensemble(2.0)
    path = content_path(here.places.registry, here.desk.book.versions[last].sha256)
    path.write_bytes(path.read_bytes()[:-1])
    assert begun(here, "run", name).chosen.id == first


def test_a_desk_that_was_changed_lets_nothing_decide(here: Installation) -> None:
    here.let_through_ensemble(1.0)
    here.places.desk.write_text(here.places.desk.read_text().replace("active", "aktive", 1))
    assert decides(here, "run") == policy_of(shipped_document(), 0).version


def test_without_a_sound_file_of_the_programs_own_there_is_none(
    here: Installation, shipped: Path
) -> None:
    shipped.write_bytes(b"")
    with pytest.raises(PolicyFileError, match="shipped"):
        decides(here, "run", "gnn")


def test_one_without_a_way_back_decides_and_is_not_watched(
    here: Installation, shipped: Path
) -> None:
    _, version = graph(here, "one")
    shipped.write_bytes(b"")
    start = begun(here, "run", "gnn")
    assert (start.chosen.make(0).version, start.former) == (version, None)


def test_a_document_of_other_features_or_of_no_known_kind_is_no_policy() -> None:
    document = document_of(ensemble(1.0), lineage={})
    with pytest.raises(FeatureVersionError, match="placement-0"):
        policy_of({**document, "features": "placement-0"}, 0)
    for wrong in ({"kind": "oracle"}, {"weights": [[1.0]]}, {"weights": [["x"] * 8]}):
        with pytest.raises(CorruptPolicyError, match="no policy can be made"):
            policy_of({**document, **wrong}, 0)
    for wrong in ({}, {"file": "no base64!"}, {"file": "bm90aGluZw=="}):
        with pytest.raises(CorruptPolicyError):
            policy_of({"kind": "gnn", **wrong}, 0)


def test_every_kind_that_may_be_published_can_be_made(shipped: Path) -> None:
    found = [ensemble(1.0), LinearBelief.blank()]
    assert [type(learned_of(document_of(each, lineage={}))) for each in found] == [
        type(each) for each in found
    ]
    network = policy_of(graph_document(shipped, lineage={}), 0)
    assert (*(each.kind for each in found), network.name) == KINDS


def test_a_belief_decides_as_the_bandit() -> None:
    belief = LinearBelief.blank()
    policy = policy_of(document_of(belief, lineage={}), 3)
    assert (policy.name, policy.version) == ("bandit", f"1+{digest_of(belief)}")
    for wrong in ({"noise": float("nan")}, {"weighted": [1.0]}):
        with pytest.raises(CorruptPolicyError, match="no policy can be made"):
            policy_of({**document_of(belief, lineage={}), **wrong}, 0)


def test_the_shipped_policy_is_refused_where_its_file_was_changed(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = here.folder / "shipped.json"
    changed.write_bytes(shipped_policy.SHIPPED_FILE.read_bytes())
    monkeypatch.setattr(shipped_policy, "SHIPPED_FILE", changed)
    assert shipped_document() == json.loads(changed.read_text())
    changed.write_text(changed.read_text() + " ")
    with pytest.raises(CorruptPolicyError, match="checksum"):
        decides(here, "run")
