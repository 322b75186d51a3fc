"""`library export` and `library import`, as a person types them."""

import json
import subprocess
import sys
from pathlib import Path

from esper_async.urza import Library


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esper_async.cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def filled(state_dir: Path) -> None:
    library = Library(state_dir / "urza")
    library.put_certificate("k", {"passed": True}, blueprint="BP009", interface="s")
    library.close()


def test_a_library_goes_from_one_state_directory_to_another(tmp_path: Path):
    filled(tmp_path / "here")
    archive = tmp_path / "library.tar"
    told = command("library", "export", archive, "--state-dir", tmp_path / "here", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["assets"] == 1
    told = command("library", "import", archive, "--state-dir", tmp_path / "there")
    assert (told.returncode, told.stdout) == (0, "1 version taken in, 0 were known here\n")
    library = Library(tmp_path / "there" / "urza")
    assert library.certificate("k") == {"passed": True}
    library.close()


def test_what_cannot_be_is_said_with_its_exit_code(tmp_path: Path):
    nowhere = command("library", "export", tmp_path / "x.tar", "--state-dir", tmp_path / "none")
    assert nowhere.returncode == 2
    assert "there is no library in" in nowhere.stderr
    absent = command("library", "import", tmp_path / "x.tar", "--state-dir", tmp_path / "there")
    assert absent.returncode == 2
    assert f"there is no file {tmp_path / 'x.tar'}" in absent.stderr
    (tmp_path / "x.tar").write_bytes(b"rubbish" * 1000)
    damaged = command("library", "import", tmp_path / "x.tar", "--state-dir", tmp_path / "there")
    assert damaged.returncode == 1
    assert "nothing was taken in" in damaged.stderr
