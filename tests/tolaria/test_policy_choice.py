"""Which version of a learned policy decides in a run: the active one, kept to the run's end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from esper_async.leyline.signing import Signer
from esper_async.tamiyo import shipped as shipped_policy
from esper_async.tamiyo.errors import CorruptPolicyError, PolicyFileError
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.policy_file import save_policy
from esper_async.tamiyo.offer import PLACEMENT_WIDTH
from esper_async.tamiyo.policies.from_document import learned_of, policy_of
from esper_async.tamiyo.policies.learned import FeatureVersionError, digest_of, document_of
from esper_async.tamiyo.policies.linear_belief import LinearBelief
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.policy_shelf import PolicyShelf
from esper_async.tamiyo.published import KINDS, SHIPPED, content_path
from esper_async.tamiyo.shadow_tally import LEAST_DECISIONS, ShadowTally
from esper_async.tamiyo.shipped import shipped_document
from esper_async.tolaria import policy_choice
from esper_async.tolaria.policy_choice import PolicyPlaces, choose_policy
from tests.simic.test_registry import KEY, LINEAGE, record, registry


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shipped.policy"
    save_policy(PolicyNetwork(), path, name="shipped", lineage={})
    monkeypatch.setattr(policy_choice, "SHIPPED", path)
    return path


def activated(tmp_path: Path, name: str) -> str:
    torch.manual_seed(sum(name.encode()))
    path = tmp_path / f"{name}.policy"
    save_policy(PolicyNetwork(), path, name=name, lineage={})
    shelf = PolicyShelf(tmp_path / "shelf")
    version = shelf.stage(path, validation_id="v").version
    tally = ShadowTally()
    for _ in range(LEAST_DECISIONS):
        tally.add(latency_ms=1.0, legal=True, agreed=True, risk=0.0, active_risk=0.0)
    shelf.judge(version, tally)
    shelf.activate(version)
    return version


def places(tmp_path: Path) -> PolicyPlaces:
    return PolicyPlaces(tmp_path / "shelf", tmp_path / "registry", Signer(KEY))


def chosen(tmp_path: Path, run: str = "run") -> str:
    (tmp_path / run).mkdir(exist_ok=True)
    policy = choose_policy("gnn", 0, places(tmp_path), run_dir=tmp_path / run)
    assert policy is not None
    return policy.version


def test_runs_of_another_policy_have_none(tmp_path: Path) -> None:
    assert choose_policy("heuristic", 0, places(tmp_path), run_dir=tmp_path) is None


def test_a_run_takes_what_is_active_and_keeps_it_when_it_is_resumed(tmp_path: Path) -> None:
    assert chosen(tmp_path).startswith("shipped+")
    version = activated(tmp_path, "one")
    assert chosen(tmp_path).startswith("shipped+")
    assert chosen(tmp_path, "later") == version


def test_one_whose_file_is_no_good_gives_way_to_the_one_before(tmp_path: Path) -> None:
    first, second = activated(tmp_path, "one"), activated(tmp_path, "two")
    path = PolicyShelf(tmp_path / "shelf").path(second)
    assert path is not None
    path.write_bytes(b"cut")
    assert chosen(tmp_path) == first
    shelf = PolicyShelf(tmp_path / "shelf")
    assert shelf.active == first
    assert "checksum" in shelf.history[-1].reason or "policy" in shelf.history[-1].reason


def test_without_a_sound_file_of_the_programs_own_there_is_none(
    tmp_path: Path, shipped: Path
) -> None:
    shipped.write_bytes(b"")
    with pytest.raises(PolicyFileError, match="shipped"):
        chosen(tmp_path)


def ensemble(weight: float) -> SoftmaxEnsemble:
    return SoftmaxEnsemble(np.full((2, PLACEMENT_WIDTH), weight), np.zeros(PLACEMENT_WIDTH))


def published(tmp_path: Path, weight: float, **more: object) -> tuple[str, str]:
    """Publish an ensemble; return its id and the version of the policy that decides by it."""
    kept = registry(tmp_path)
    learned = ensemble(weight)
    document = {**document_of(learned, lineage=LINEAGE), **more}
    features = str(document["features"])
    entry = kept.submit(document, record(kept.book().active_of(features)))
    return entry.id, f"1+{digest_of(learned)}"


def decides(tmp_path: Path, run: str) -> str:
    (tmp_path / run).mkdir(exist_ok=True)
    policy = choose_policy("learned", 0, places(tmp_path), run_dir=tmp_path / run)
    assert policy is not None
    return policy.version


def test_the_best_that_has_passed_decides_and_a_resumed_run_keeps_its_own(tmp_path: Path) -> None:
    shipped = policy_of(shipped_document(), 0).version
    assert decides(tmp_path, "first") == shipped
    _, one = published(tmp_path, 1.0)
    _, two = published(tmp_path, 2.0)
    assert decides(tmp_path, "second") == two
    registry(tmp_path).roll_back("placement-1")
    assert decides(tmp_path, "third") == one
    assert [decides(tmp_path, run) for run in ("first", "second")] == [shipped, two]
    pinned = json.loads((tmp_path / "first" / "policy.json").read_text())
    assert pinned["version"] == SHIPPED


def test_a_published_file_that_was_changed_gives_way_to_the_one_before(tmp_path: Path) -> None:
    _, one = published(tmp_path, 1.0)
    last, _ = published(tmp_path, 2.0)
    entries = registry(tmp_path).book().entries
    path = content_path(tmp_path / "registry", entries[last].sha256)
    path.write_bytes(path.read_bytes()[:-1])
    assert decides(tmp_path, "run") == one
    assert registry(tmp_path).book().active_of("placement-1") == last


def test_a_registry_that_another_key_signed_decides_nothing(tmp_path: Path) -> None:
    published(tmp_path, 1.0)
    folder = tmp_path / "registry"
    (folder / "registry.json").write_text(
        (folder / "registry.json").read_text().replace('"active"', '"activ"', 1)
    )
    assert decides(tmp_path, "run") == policy_of(shipped_document(), 0).version


def test_a_policy_of_other_features_or_of_no_known_kind_is_passed_over(tmp_path: Path) -> None:
    published(tmp_path, 1.0, features="placement-0")
    published(tmp_path, 1.0, kind="oracle")
    shipped = policy_of(shipped_document(), 0).version
    assert decides(tmp_path, "run") == shipped
    document = document_of(ensemble(1.0), lineage={})
    with pytest.raises(FeatureVersionError, match="placement-0"):
        policy_of({**document, "features": "placement-0"}, 0)
    for wrong in ({"kind": "oracle"}, {"weights": [[1.0]]}, {"weights": [["x"] * 8]}):
        with pytest.raises(CorruptPolicyError, match="no policy can be made"):
            policy_of({**document, **wrong}, 0)


def test_every_kind_that_may_be_published_can_be_made() -> None:
    found = [ensemble(1.0), LinearBelief.blank()]
    assert [type(learned_of(document_of(each, lineage={}))) for each in found] == [
        type(each) for each in found
    ]
    assert tuple(each.kind for each in found) == KINDS


def test_a_belief_decides_as_the_bandit() -> None:
    belief = LinearBelief.blank()
    policy = policy_of(document_of(belief, lineage={}), 3)
    assert (policy.name, policy.version) == ("bandit", f"1+{digest_of(belief)}")
    for wrong in ({"noise": float("nan")}, {"weighted": [1.0]}):
        with pytest.raises(CorruptPolicyError, match="no policy can be made"):
            policy_of({**document_of(belief, lineage={}), **wrong}, 0)


def test_the_shipped_policy_is_refused_where_its_file_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "shipped.json"
    changed.write_bytes(shipped_policy.SHIPPED_FILE.read_bytes())
    monkeypatch.setattr(shipped_policy, "SHIPPED_FILE", changed)
    assert shipped_document() == json.loads(changed.read_text())
    changed.write_text(changed.read_text() + " ")
    with pytest.raises(CorruptPolicyError, match="checksum"):
        decides(tmp_path, "run")
