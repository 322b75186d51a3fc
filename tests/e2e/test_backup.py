"""A backup taken while a run trains is one from which it goes on, to the very same weights."""

import asyncio
from pathlib import Path

import pytest

from esper_async.supervisor.backup import back_up
from esper_async.supervisor.restore import restore
from esper_async.testing.harness import Esper
from tests.e2e.conftest import digest, only_run, run_of
from tests.e2e.test_interruptions import QUICK, assert_reported_once

pytestmark = [pytest.mark.timeout(600), pytest.mark.full]


@QUICK
async def test_a_run_goes_on_from_a_live_backup_of_its_state_directory(
    esper: Esper, uninterrupted: Path, tmp_path: Path
) -> None:
    run_id = await esper.submit(run_of("table_mlp"))
    await esper.until(lambda s: (s.run(run_id)["epoch"] or 0) >= 4, 120)
    made = await asyncio.to_thread(back_up, esper.state_dir, tmp_path / "b.tar.gz")
    await esper.close()
    restored = restore(made.path, tmp_path / "restored").state_dir
    again = Esper(restored, settings={"tolaria.nice": 0})
    await again.start()
    try:
        run = await again.ended(run_id)
        assert run["state"] == "completed"
    finally:
        await again.close()
    assert digest(only_run(restored)) == digest(uninterrupted)
    assert_reported_once(restored)
