"""The state directory is checked, versioned, held once, and gives out its token."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper_async.supervisor.errors import AlreadyRunningError, StateDirError
from esper_async.supervisor.state_dir import (
    FORMAT_VERSION,
    MIGRATIONS,
    announced,
    format_of,
    held,
    prepare,
    upgrade,
)


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


def test_a_new_one_has_the_present_format(tmp_path: Path) -> None:
    assert upgrade(tmp_path) == FORMAT_VERSION
    assert format_of(tmp_path) == FORMAT_VERSION


def test_a_newer_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("99\n")
    with pytest.raises(StateDirError, match=r"format 99, this version reads 1; use the version"):
        upgrade(tmp_path)


def test_what_is_no_format_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("one\n")
    with pytest.raises(StateDirError, match=r"format 'one', which is no number"):
        upgrade(tmp_path)


def test_an_older_format_is_migrated_step_by_step_and_again_where_it_was_interrupted(
    tmp_path: Path,
) -> None:
    (tmp_path / "format").write_text("1\n")
    done: list[str] = []

    def first(_path: Path) -> None:
        done.append("1 to 2")

    def second(path: Path) -> None:
        done.append("2 to 3")
        if not (path / "mended").exists():
            raise OSError("no room")

    migrations = {1: first, 2: second}
    with pytest.raises(OSError, match="no room"):
        upgrade(tmp_path, to=3, migrations=migrations)
    assert format_of(tmp_path) == 2
    (tmp_path / "mended").touch()
    assert upgrade(tmp_path, to=3, migrations=migrations) == 2
    assert format_of(tmp_path) == 3
    assert done == ["1 to 2", "2 to 3", "2 to 3"]


def test_a_format_from_which_no_way_leads_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("1\n")
    with pytest.raises(StateDirError, match="format 1, this version reads 3"):
        upgrade(tmp_path, to=3, migrations={2: lambda _: pytest.fail("it was begun")})
    assert format_of(tmp_path) == 1


def test_every_older_format_has_its_migration() -> None:
    assert set(MIGRATIONS) == set(range(1, FORMAT_VERSION))


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
