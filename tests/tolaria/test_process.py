"""The training process: how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from esper_async.oona.bridge import BridgeReport
from esper_async.tolaria import process


class Link:
    def __init__(self, stop_requested: bool) -> None:
        self.stop_requested = stop_requested


@pytest.mark.parametrize(
    ("drained", "patience_s"),
    [(True, process.DRAINED_DEADLINE_S), (False, process.BRIDGE_DEADLINE_S)],
)
def test_a_drained_run_does_not_wait_for_acknowledgements_of_those_that_have_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drained: bool, patience_s: float
) -> None:
    given: list[float] = []

    class Bridge:
        def __init__(self, *_: object) -> None:
            pass

        def start(self) -> None:
            pass

        def close(self, deadline_s: float) -> BridgeReport:
            given.append(deadline_s)
            return BridgeReport(0, 0, {}, 0, 0, "")

    (tmp_path / "run.json").write_text(json.dumps({"id": "r", "config": {}}))
    monkeypatch.setattr(process, "Bridge", Bridge)
    monkeypatch.setattr(process, "watch_dispatch", lambda *_: None)
    monkeypatch.setattr(process, "configure_logging", lambda **_: None)
    monkeypatch.setattr(process, "_train", lambda *_: 0)
    link: Any = Link(drained)
    state = str(tmp_path / "state")
    process.train(
        link, run_dir=str(tmp_path), state_dir=state, redis_url="unix:///none",
        key_path=str(tmp_path / "key"),
    )  # fmt: skip
    assert given == [patience_s]
    assert process.DRAINED_DEADLINE_S < process.BRIDGE_DEADLINE_S
