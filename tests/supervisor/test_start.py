"""What the supervisor looks at before it starts anything."""

from pathlib import Path

import pytest

from esper_async.leyline import Limits
from esper_async.supervisor import app
from esper_async.supervisor.errors import StartError
from esper_async.supervisor.settings import Settings, SupervisorSettings


async def test_limits_that_contradict_each_other_keep_the_supervisor_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LIMITS", Limits(decision_ms=30.0, queue_high_water=6_000))
    settings = Settings(supervisor=SupervisorSettings(state_dir=tmp_path / "state"))
    with pytest.raises(StartError) as caught:
        await app.Supervisor(settings).run()
    told = str(caught.value)
    assert told.startswith("leyline could not start")
    assert "boundary parts take 36.0 ms of a budget of 18.0 ms" in told
    assert "low water < high water < bound" in told
    assert "mend esper_async/leyline/limits.py" in told
