"""An installation with a registry and a desk, for runs that policy updates reach."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from esper_async.leyline import PolicyUpdate
from esper_async.leyline.signing import Signer
from esper_async.simic.announcing import updates_of
from esper_async.tamiyo.conduct import Conduct
from esper_async.tamiyo.desk_book import Rules
from esper_async.tamiyo.offer import PLACEMENT_WIDTH
from esper_async.tamiyo.policies.learned import document_of
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.policy_desk import PolicyDesk
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.shadow_tally import ShadowTally
from esper_async.tolaria.policy_choice import PolicyPlaces
from tests.simic.test_registry import KEY, LINEAGE, record, registry


def ensemble(weight: float) -> SoftmaxEnsemble:
    return SoftmaxEnsemble(np.full((2, PLACEMENT_WIDTH), weight), np.zeros(PLACEMENT_WIDTH))


def conducted(count: int, *, ms: float = 1.0, risk: float = 0.1) -> Conduct:
    conduct = Conduct()
    for _ in range(count):
        conduct.add(cpu_ms=ms, risk=(risk, RiskLevel.GREEN))
    return conduct


class Installation:
    """Publishes policies and lets them through; the runs that would tell of them are made up."""

    def __init__(self, folder: Path, rules: Rules | None = None) -> None:
        self.folder = folder
        self.registry = registry(folder)
        self.places = PolicyPlaces(folder / "desk.json", folder / "registry", Signer(KEY))
        self._records = itertools.count(1)
        self.desk = PolicyDesk(
            self.places.desk, self.places.registry, self.places.signer, rules=rules or Rules()
        )
        self.desk.open()

    def publish(self, document: Mapping[str, Any]) -> PolicyUpdate:
        """Publish a policy, and let the desk take the update."""
        features = str(document["features"])
        active = self.registry.book().active_of(features)
        self.registry.submit(document, record(active))
        updates = updates_of(self.registry.book())
        (update,) = [each for each in updates if each.schema_digest == features]
        assert self.desk.take(update)
        return update

    def publish_ensemble(self, weight: float) -> PolicyUpdate:
        """Publish an ensemble."""
        return self.publish(document_of(ensemble(weight), lineage=LINEAGE))

    def let_through(self, document: Mapping[str, Any]) -> str:
        """Publish a policy, and say that it was sound in the shadow; return its id."""
        update = self.publish(document)
        states = self.desk.book.rules.shadow_states
        done = conducted(states)
        tally = ShadowTally(done, done, agreed=states)
        fields = {"version": update.policy_version, "update": update.update_id}
        self.tell("policy_shadowed", tally=tally.to_json(), **fields)
        assert self.desk.book.active_of(update.schema_digest) == update.policy_version
        return update.policy_version

    def let_through_ensemble(self, weight: float) -> str:
        """Publish an ensemble, and say that it was sound in the shadow; return its id."""
        return self.let_through(document_of(ensemble(weight), lineage=LINEAGE))

    def settle(self, version: str) -> None:
        """Say that a policy was watched for long enough."""
        told = {"regressions": [], "conduct": conducted(10).to_json()}
        self.tell("policy_watched", version=version, **told)

    def put_back(self, version: str) -> None:
        """Say that a policy does worse than the one before it."""
        told = {"regressions": ["worse"], "conduct": conducted(10).to_json()}
        self.tell("policy_watched", version=version, **told)

    def tell(self, kind: str, **fields: Any) -> None:
        """Tell the desk a record of some other run."""
        self.desk.fold("elsewhere", {"kind": kind, "seq": next(self._records), **fields})

    def fold(self, run_id: str, records: list[dict[str, Any]]) -> None:
        """Let the desk take in what a run has told."""
        for each in records:
            if each["kind"].startswith("policy_"):
                self.desk.fold(run_id, each)
