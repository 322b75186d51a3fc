"""What is wrong is named with its remedy, without a traceback, and nothing is left running."""

import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Answer, Cli, processes_of


def assert_named(answer: Answer, code: int, *words: str) -> None:
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err, answer.err
    assert answer.code == code, answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("up", "--set", "oona.redis_ulr=x"), ("oona.redis_ulr", "oona.redis_url")),
        (("up", "--set", "http.port=many"), ("http.port", "many", "integer")),
        (("up", "--set", "nonsense"), ("nonsense", "key=value")),
        (("up", "--port", "99999"), ("http.port", "65535")),
        (("up", "--config", "gone.toml"), ("gone.toml", "cannot be read")),
        (("up", "--run", "gone.toml"), ("gone.toml", "there is no file")),
        (("up", "--run", "digit"), ("digit", "did you mean 'digits'")),
        (("up", "--state-dir", "/proc/nowhere", "--no-run"), ("/proc/nowhere", "--state-dir")),
        (("up", "--no-such-flag"), ("--no-such-flag",)),
        (("up", "--run", "digits", "--no-run"), ("--no-run contradicts --run digits",)),
        (("check", "gone.toml"), ("gone.toml", "there is no file")),
        (("uq",), ("uq",)),
    ],
)
def test_a_wrong_request_is_named(
    arguments: tuple[str, ...], words: tuple[str, ...], cli: Cli
) -> None:
    assert_named(cli(*arguments), 2, *words)


def test_a_run_file_with_an_unknown_key_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[run]\ntask = 'a.b:c'\nepoch = 3\n")
    assert_named(cli("up", "--run", "run.toml"), 2, "run.toml", "run.epoch", "run.epochs")
    assert_named(cli("check", "run.toml"), 2, "run.toml", "run.epoch", "run.epochs")


def test_an_unknown_variable_is_named(cli: Cli) -> None:
    answer = cli("up", "--no-run", ESPER_OONA__REDIS_ULR="redis://x")
    assert_named(answer, 2, "oona.redis_url", "in the environment")


def test_a_taken_port_is_named(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = cli("up", "--no-run", "--state-dir", "state", "--port", str(port))
    assert_named(answer, 1, f"port {port} on 127.0.0.1 is taken", "--port")


def test_a_dead_redis_url_is_named(cli: Cli) -> None:
    answer = cli(
        "up", "--no-run", "--state-dir", "state", "--port", "0",
        "--set", "oona.redis_url=redis://127.0.0.1:1/0",
    )  # fmt: skip
    assert_named(answer, 1, "oona could not start", "oona.redis_url")


def test_listening_beyond_this_machine_without_a_token_is_refused(cli: Cli) -> None:
    answer = cli("up", "--no-run", "--state-dir", "state", "--host", "0.0.0.0", "--port", "0")
    assert_named(answer, 2, "0.0.0.0", "ESPER_API_TOKEN")


def test_commands_without_a_supervisor_say_how_to_start_one(cli: Cli) -> None:
    for command in (("status",), ("runs",), ("down",), ("run", "digits"), ("events",)):
        assert_named(cli(*command, "--state-dir", "state"), 1, "no supervisor runs", "up")


def test_an_error_is_a_json_document_for_whoever_asked_for_json(cli: Cli) -> None:
    answer = cli("status", "--json", "--state-dir", "state")
    assert_named(answer, 1, "no supervisor runs")
    assert set(answer.document) == {"error", "exit_code"}
    assert "no supervisor runs" in answer.document["error"]
    assert answer.document["exit_code"] == 1


@pytest.mark.parametrize("below", ["", "/inside"])
def test_a_state_directory_that_is_a_file_is_a_problem_for_the_doctor(
    below: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    answer = cli("doctor", "--json", "--state-dir", f"file{below}")
    (found,) = (f for f in answer.document if f["name"] == "state directory")
    assert (found["verdict"], answer.code) == ("problem", 1)
    assert "file is not a directory" in found["remedy"]


def test_the_doctor_does_not_show_the_password_of_a_redis_that_is_away(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "esper.toml").write_text("[oona]\nredis_url = 'redis://u:s3cr3t@127.0.0.1:1/0'\n")
    answer = cli("doctor", "--json", "--state-dir", "state")
    (found,) = (f for f in answer.document if f["name"] == "redis")
    assert found["verdict"] == "problem"
    assert found["found"].startswith("redis://u:***@127.0.0.1:1/0: ")
    assert "s3cr3t" not in str(answer)


_TASKS = {
    "raises": ("def make_task():\n    raise RuntimeError('the cat ate the data')\n", "the cat ate"),
    "no_task": ("def make_task():\n    return 3\n", "Task"),
    "gone": ("def other():\n    pass\n", "make_task"),
    "empty_loader": (
        "import torch\nfrom torch import nn\nfrom esper_async import Task\n"
        "def make_task():\n"
        "    return Task(model=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),\n"
        "                train_loader=[], validation_loader=[],\n"
        "                loss=nn.functional.cross_entropy)\n",
        "loader",
    ),
}


@pytest.mark.parametrize(
    "name",
    ["raises", *(pytest.param(n, marks=pytest.mark.full) for n in sorted(_TASKS) if n != "raises")],
)
def test_a_task_that_cannot_be_trained_fails_its_run_with_the_reason(
    name: str, cli: Cli, tmp_path: Path
) -> None:
    code, words = _TASKS[name]
    (tmp_path / "task.py").write_text(code)
    (tmp_path / "run.toml").write_text("[run]\ntask = 'task.py:make_task'\nepochs = 2\n")
    answer = cli(
        "up", "--run", "run.toml", "--state-dir", "state", "--port", "0", "--exit-when-done"
    )
    assert answer.code == 1, answer.err
    assert "failed" in answer.out
    assert words in answer.out
    assert "Traceback" not in answer.out + answer.err
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [("runs", "show", "r1"), ("runs", "stop", "r1"), ("dead-letters", "show", "d1")],
)
def test_the_state_directory_may_stand_after_the_subcommand(
    command: tuple[str, ...], cli: Cli
) -> None:
    answer = cli(*command, "--state-dir", "elsewhere")
    assert (answer.code, "elsewhere" in answer.err) == (1, True), answer.err
