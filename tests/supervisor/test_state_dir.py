"""The state directory is checked, versioned, held once, and gives out its token."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper_async.supervisor.errors import AlreadyRunningError, StateDirError
from esper_async.supervisor.state_dir import announced, held, prepare


def test_it_is_made_private(tmp_path: Path) -> None:
    path = prepare(tmp_path / "deep" / "state")
    assert path.stat().st_mode & 0o777 == 0o700
    assert prepare(path) == path


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateDirError, match=r"state is not a directory.*--state-dir"):
        prepare(tmp_path / "state")


def test_one_that_cannot_be_written_is_named() -> None:
    with pytest.raises(StateDirError, match=r"/proc/nowhere is not writable.*--state-dir"):
        prepare(Path("/proc/nowhere"))


def test_another_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "format").write_text("99\n")
    with pytest.raises(StateDirError, match=r"format '99', this version reads 1"):
        prepare(tmp_path)


def test_two_supervisors_never_share_one(tmp_path: Path) -> None:
    attempt = (
        "import sys; from pathlib import Path\n"
        "from esper_async.supervisor.state_dir import held\n"
        "with held(Path(sys.argv[1])): print('held')"
    )
    command = [sys.executable, "-c", attempt, str(tmp_path)]
    with held(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"process {os.getpid()}" in refused.stderr
    assert AlreadyRunningError.__name__ in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == "held\n"


def test_the_announcement_is_there_while_it_listens(tmp_path: Path) -> None:
    with announced(tmp_path, {"port": 1}):
        assert json.loads((tmp_path / "supervisor.json").read_text()) == {"port": 1}
    assert not (tmp_path / "supervisor.json").exists()
