"""A run that asks for `learned`, in its real process: what was published decides, to the end."""

import json

import numpy as np
import pytest

from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo.offer import PLACEMENT_WIDTH
from esper_async.tamiyo.policies.learned import digest_of, document_of
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.testing.harness import Esper
from tests.e2e.conftest import only_run, records, run_of
from tests.simic.test_registry import LINEAGE, SHIPPED, record

pytestmark = [pytest.mark.timeout(600), pytest.mark.full]


async def test_what_was_published_decides_in_a_run_under_the_supervisor(esper: Esper) -> None:
    ensemble = SoftmaxEnsemble(np.ones((2, PLACEMENT_WIDTH)), np.zeros(PLACEMENT_WIDTH))
    kept = PolicyRegistry.of(esper.state_dir)
    entry = kept.submit(document_of(ensemble, lineage=LINEAGE), record(SHIPPED))
    asked = run_of("table_mlp")
    asked["growth"]["policy"] = "learned"
    run = await esper.ended(await esper.submit(asked))
    assert run["state"] == "completed"
    folder = only_run(esper.state_dir)
    assert json.loads((folder / "policy.json").read_text())["version"] == entry.id
    decisions = records(folder, "decision")
    assert {each["policy_version"] for each in decisions} == {f"1+{digest_of(ensemble)}"}
    assert {each["policy"] for each in decisions} == {"awr"}
