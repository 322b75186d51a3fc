"""The graph policy: repeatable, resumable, honest about what it saw; and its file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esper_async.kasmina.stage import Stage
from esper_async.tamiyo import policy_header
from esper_async.tamiyo.command import Germinate
from esper_async.tamiyo.errors import CorruptPolicyError, GraphMismatchError, PolicyFileError
from esper_async.tamiyo.evidence import unpack
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.policy_file import load_policy, save_policy
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.policy_header import read_header
from tests.tamiyo.graph_views import BLUEPRINTS, drawn_views, seed, view


@pytest.fixture(scope="module")
def network() -> PolicyNetwork:
    torch.manual_seed(0)
    return PolicyNetwork().eval()


def policy(network: PolicyNetwork, number: int = 0) -> GraphPolicy:
    return GraphPolicy(number, network, version="test")


def test_the_same_seed_and_views_give_the_same_decisions(network: PolicyNetwork) -> None:
    views = drawn_views(20)
    one, other = policy(network), policy(network)
    assert [one.decide(each) for each in views] == [other.decide(each) for each in views]
    third = policy(network, 1)
    assert [one.decide(each) for each in views] != [third.decide(each) for each in views]


def test_a_saved_policy_goes_on_as_it_would_have(network: PolicyNetwork) -> None:
    views = drawn_views(12)
    one, other = policy(network), policy(network, 5)
    one.decide(views[0])
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert [one.decide(v).command for v in views] == [other.decide(v).command for v in views]


def test_a_resumed_run_keeps_its_weights(network: PolicyNetwork) -> None:
    other = GraphPolicy(0, network, version="newer")
    with pytest.raises(ValueError, match="test, and newer is at hand"):
        other.load_state_dict(policy(network).state_dict())


def test_warming_changes_no_decision(network: PolicyNetwork) -> None:
    one, other = policy(network), policy(network)
    one.warm(view())
    assert one.decide(view()) == other.decide(view())


def test_the_threads_of_the_caller_and_its_random_state_stay(network: PolicyNetwork) -> None:
    before = torch.get_rng_state()
    policy(network).decide(view())
    assert torch.equal(before, torch.get_rng_state())


def test_a_decision_carries_graph_masks_and_every_probability(network: PolicyNetwork) -> None:
    decision = policy(network).decide(view(seeds=[seed("s1", Stage.TRAINING)]))
    assert decision.evidence is not None
    told = unpack(decision.evidence)
    assert {nodes.type for nodes in told.graph.nodes} == {
        "run", "layer", "activation", "parameter", "seed", "blueprint",
    }  # fmt: skip
    by_type = {nodes.type: nodes for nodes in told.graph.nodes}
    assert list(by_type["blueprint"].names) == list(BLUEPRINTS)
    assert len(by_type["seed"].features) == by_type["seed"].width
    assert len(by_type["seed"].missing) > 0
    planting = next(e for e in told.graph.edges if e.relation == "may_be_planted")
    assert len(planting.sources) == 9
    total = sum(head.log_probabilities[head.chosen] for head in told.heads)
    assert decision.probability == pytest.approx(torch.tensor(total).exp().item(), rel=1e-4)
    assert told.value == pytest.approx(decision.value)
    assert decision.alternatives


def test_tournaments_are_planted_and_every_candidate_was_offered(network: PolicyNetwork) -> None:
    deciding = policy(network)
    sizes = set()
    for each in drawn_views(120):
        command = deciding.decide(each).command
        if isinstance(command, Germinate):
            sizes.add(len(command.candidates))
            offered = {(p.site, p.blueprint) for p in each.placements}
            assert {(c.site, c.blueprint) for c in command.candidates} <= offered
    assert len(sizes) > 1


def test_evidence_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="evidence"):
        unpack("no evidence")


# -- the file ----------------------------------------------------------------------------------


def saved(network: PolicyNetwork, folder: Path) -> Path:
    path = folder / "some.policy"
    save_policy(network, path, name="test", lineage={"teacher": "nobody"})
    return path


def test_a_saved_network_decides_as_it_did(network: PolicyNetwork, tmp_path: Path) -> None:
    path = saved(network, tmp_path)
    loaded, header = load_policy(path)
    assert header.lineage == {"teacher": "nobody"}
    assert header == read_header(path)
    assert not loaded.training
    halves = {name: tensor.half().float() for name, tensor in network.state_dict().items()}
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, halves[name])


def test_the_same_weights_give_the_same_bytes(network: PolicyNetwork, tmp_path: Path) -> None:
    one, other = saved(network, tmp_path / "a"), saved(network, tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()


def test_a_file_that_is_not_there_is_named_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"tamiyo\.imitation"):
        GraphPolicy.load(0, tmp_path / "none.policy")


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "text"])
def test_a_corrupt_file_is_refused(network: PolicyNetwork, tmp_path: Path, harm: str) -> None:
    path = saved(network, tmp_path)
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-2000] ^= 1
    harmed = {"cut": content[:-100], "empty": b"", "text": b"hello\n", "flip": content}[harm]
    path.write_bytes(bytes(harmed))
    with pytest.raises(CorruptPolicyError, match=str(path)):
        load_policy(path)


def test_a_policy_for_other_features_is_refused(
    network: PolicyNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(network, tmp_path)
    monkeypatch.setattr(policy_header, "schema_digest", lambda: "0" * 64)
    with pytest.raises(GraphMismatchError, match="trained for the features"):
        load_policy(path)


def test_in_conservative_mode_less_is_left_to_chance_and_the_record_says_how_much() -> None:
    torch.manual_seed(5)
    decided = PolicyNetwork().eval()
    with torch.no_grad():
        for parameter in decided.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))

    def entropy(conservative: bool) -> float:
        evidence = policy(decided).decide(replace(view(), conservative=conservative)).evidence
        assert evidence is not None
        told = np.array(unpack(evidence).heads[0].log_probabilities)
        chances = np.exp(told[np.isfinite(told)])
        assert chances.sum() == pytest.approx(1.0)
        return float(-(chances * np.log(chances)).sum())

    assert 0.0 < entropy(conservative=True) < 0.9 * entropy(conservative=False)


def test_weights_of_another_shape_than_their_form_are_refused(
    network: PolicyNetwork, tmp_path: Path
) -> None:
    path = saved(network, tmp_path)
    line, payload = path.read_bytes().split(b"\n", 1)
    header = json.loads(line)
    header["form"]["hidden"] = 24
    path.write_bytes(json.dumps(header).encode() + b"\n" + payload)
    with pytest.raises(CorruptPolicyError, match="do not fit its own form"):
        load_policy(path)
