"""What docs/security.md promises: no unpickling, private files, secrets nowhere in the open."""

import ast
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.runtime.processes import processes_naming
from esper_async.runtime.strict_model import ConfigurationError
from esper_async.supervisor.settings import load_settings
from tests.cli.conftest import Up, up  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "esper_async"
_UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def test_nothing_is_unpickled() -> None:
    found = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            else:
                continue
            found += [f"{path}:{node.lineno}" for _ in names & _UNPICKLERS]
    assert found == []


def test_torch_reads_weights_only() -> None:
    careless = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"):
                continue
            only = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
            careless += [f"{path}:{node.lineno}"] if only != "True" else []
    assert careless == []


def test_no_text_is_run_as_a_program() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("eval", "exec", "compile")
    ]
    assert found == []


def test_no_shell_is_given_a_line() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            ast.unparse(node.func) in ("os.system", "os.popen")
            or any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords)
        )
    ]
    assert found == []


@pytest.mark.full
def test_secrets_are_private_files_and_nowhere_in_the_open(up: Up) -> None:  # noqa: F811
    token, key = secrets.token_hex(32), secrets.token_hex(32)
    running = up("--no-run", ESPER_API_TOKEN=token, ESPER_LEYLINE_SECRET=key)
    running.wait_ready()
    answers = ""
    for path in ("/readyz", "/api/status", "/api/events", "/metrics", "/api/openapi.json", "/"):
        answers += _get(running.url(path))
    listings = ""
    for pid in [running.process.pid, *processes_naming(running.state_dir)]:
        listings += Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    assert running.state_dir.stat().st_mode & 0o777 == 0o700
    loose = [
        str(path)
        for path in running.state_dir.rglob("*")
        if (path.name in ("token", "leyline.key") or path.is_socket())
        and path.stat().st_mode & 0o077
    ]
    assert running.stop(signal.SIGTERM) == 0
    running.errors.seek(0)
    said = running.said() + running.errors.read()
    for secret in (token, key):
        assert secret not in answers
        assert secret not in listings
        assert secret not in said
    assert loose == []


def _get(url: str) -> str:
    host, _, rest = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=10) as link:
        link.sendall(f"GET /{rest} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        parts = []
        while part := link.recv(65_536):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")


_KEYS = st.sampled_from(
    ["supervisor", "http", "port", "host", "oona", "redis_url", "services", "stall_s", "x", ""]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_KEYS.filter(bool), _VALUES, max_size=4))
def test_no_settings_get_past_the_check_as_a_crash(document: dict[str, object]) -> None:
    try:
        load_settings(None, document, {})
    except ConfigurationError as error:
        assert error.problems


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_settings_file_are_refused_in_words(content: bytes) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"esper-fuzz-{os.getpid()}.toml"
    path.write_bytes(content)
    try:
        load_settings(path, None, {})
    except ConfigurationError as error:
        assert str(path) in str(error) or error.problems
    finally:
        path.unlink()


def test_every_test_that_the_threat_model_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"`(tests/[a-z_/]+\.py)`", page))
    assert named
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_what_is_pinned_is_pinned_exactly() -> None:
    lines = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#", "-"))]
    assert packages
    assert [line for line in packages if "==" not in line] == []
