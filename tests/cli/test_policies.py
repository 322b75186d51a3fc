"""`policies ...`, as a person types it, on a state directory without a supervisor."""

import json
from pathlib import Path

from esper_async.leyline.keys import load_signer
from esper_async.simic.announcing import updates_of
from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo.desk_book import desk_path
from esper_async.tamiyo.policy_desk import PolicyDesk
from esper_async.tamiyo.published import content_path, registry_path
from tests.cli.conftest import Cli
from tests.simic.test_registry import SHIPPED, policy, record
from tests.tolaria.updated import conducted

FOUND = {
    "estimate": {"refusals": [], "value": 0.1, "low": 0.0, "high": 0.2, "trials": 40, "runs": 20},
    "replay": {
        "difference": {"value": -0.02, "low": -0.03, "high": -0.01},
        "chance": {"value": 0.1},
        "pairs": [{}] * 12,
    },
    "calibration": {"measured": -0.3, "within": False},
}


def test_a_file_that_is_no_graph_policy_is_not_judged(cli: Cli, tmp_path: Path) -> None:
    where = ("--state-dir", str(tmp_path / "state"))
    missing = cli("policies", *where, "judge", str(tmp_path / "none.policy"))
    assert (missing.code, "there is no file" in missing.err) == (2, True)
    (tmp_path / "bad.policy").write_bytes(b"nothing")
    bad = cli("policies", *where, "judge", str(tmp_path / "bad.policy"))
    assert (bad.code, "it is no policy's file" in bad.err) == (2, True)


def test_how_far_an_update_has_come_is_listed_and_both_sides_tell_its_history(
    cli: Cli, tmp_path: Path
) -> None:
    root = tmp_path / "state"
    where = ("--state-dir", str(root))
    kept = PolicyRegistry.of(root)
    one = kept.submit(policy(1), record(SHIPPED)).id
    desk = PolicyDesk(desk_path(root), registry_path(root), load_signer(root / "leyline.key"))
    desk.open()
    (update,) = updates_of(kept.book())
    desk.take(update)
    assert "staged, 0 of 20 states" in cli("policies", *where).out
    done = conducted(20).to_json()
    told = {"version": one, "update": update.update_id, "seq": 1, "kind": "policy_shadowed"}
    desk.fold("r1", {**told, "tally": {"new": done, "active": done, "agreed": 20}})
    assert "active, watched" in cli("policies", *where).out
    assert cli("policies", "--json", *where).document[0]["controller"]["states"] == 20
    told = {"version": one, "seq": 2, "kind": "policy_watched", "regressions": ["too slow"]}
    desk.fold("r1", {**told, "conduct": done})
    history = cli("policies", "--json", *where, "history").document
    assert [(each["by"], each["what"]) for each in reversed(history)] == [
        ("simic", "published"), ("tamiyo", "staged"), ("tamiyo", "activated"),
        ("tamiyo", "rejected"), ("tamiyo", "put back"),
    ]  # fmt: skip
    listed = cli("policies", *where).out
    assert "rejected" in listed
    assert "too slow" in cli("policies", *where, "history").out


def test_policies_are_listed_shown_activated_and_put_back(cli: Cli, tmp_path: Path) -> None:
    where = ("--state-dir", str(tmp_path / "state"))
    assert [row["id"] for row in cli("policies", "--json", *where).document] == [SHIPPED]
    none = cli("policies", *where, "rollback")
    assert (none.code, "`learn` makes one" in none.err) == (2, True)
    kept = PolicyRegistry.of(tmp_path / "state")
    one = kept.submit(policy(1), record(SHIPPED)).id
    bad = kept.submit(policy(2), record(one, passes=False, **FOUND)).id
    listed = cli("policies", *where)
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [
        [bad, "refused"], [one, "active"], [SHIPPED, "retired"],
    ]  # fmt: skip
    shown = cli("policies", *where, "show", bad)
    assert "did not pass the gate" in shown.out
    assert "  worse\n" in shown.out
    assert "fresh runs are -0.0200 above those under the active policy" in shown.out
    assert "a decision of theirs was paid -0.300 more: outside the estimate" in shown.out
    assert "  reward_version: 2\n" in shown.out
    refused = cli("policies", *where, "activate", bad)
    assert (refused.code, "did not pass the gate" in refused.err) == (1, True)
    unknown = cli("policies", *where, "activate", "awr-nobody")
    assert (unknown.code, one in unknown.err) == (2, True)
    assert f"{SHIPPED} is active" in cli("policies", *where, "rollback").out
    assert cli("policies", *where, "rollback", one).code == 0
    graph = kept.submit(policy(4, "graph-2"), record(SHIPPED)).id
    assert f"{SHIPPED} is active" in cli("policies", *where, "rollback", "--of", "gnn").out
    assert kept.book().active == {"placement-1": one, "graph-2": SHIPPED}
    assert cli("policies", *where, "activate", graph).code == 0
    assert json.loads(cli("policies", "--json", *where, "history").out)[0]["what"] == "restored"
    path = content_path(registry_path(tmp_path / "state"), kept.book().entries[one].sha256)
    path.write_text("{}")
    damaged = cli("policies", *where, "activate", one)
    assert (damaged.code, "it was cut short or changed" in damaged.err) == (1, True)
