"""The shipped unit, manifest and container file agree with the supervisor that they start."""

import configparser
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from esper_async.supervisor.app import EXIT_ESSENTIAL
from esper_async.supervisor.errors import StateDirError
from esper_async.supervisor.settings import Settings

CONFIG = Path(__file__).parents[2] / "config"
UNIT = CONFIG / "systemd" / "esper.service"
DRAIN_S = Settings().supervisor.shutdown_deadline_s
PORT = Settings().http.port


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def pod() -> dict[str, Any]:
    documents = yaml.safe_load_all((CONFIG / "kubernetes" / "esper.yaml").read_text())
    [found] = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "StatefulSet"]
    assert isinstance(found, dict)
    return found


def test_the_unit_waits_for_readiness_a_watchdog_and_a_whole_drain() -> None:
    service = unit()["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert float(service["TimeoutStopSec"]) > DRAIN_S
    assert float(service["TimeoutStartSec"]) > Settings().supervisor.start_timeout_s
    assert float(service["WatchdogSec"]) < Settings().supervisor.stall_limit_s
    assert service["KillMode"] == "mixed", "children are asked by the supervisor, not by systemd"
    assert service["User"] != "root"


def test_the_unit_does_not_start_again_what_would_only_fail_again() -> None:
    codes = unit()["Service"]["RestartPreventExitStatus"].split()
    assert codes == [str(StateDirError.exit_code), str(EXIT_ESSENTIAL)]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        return  # most containers have none; the other tests read the file
    copy = tmp_path / "esper.service"
    copy.write_text(UNIT.read_text().replace("/opt/esper/bin/esper-supervisor", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")],
)
def test_each_of_the_three_probes_asks_the_path_that_is_meant_for_it(probe: str, path: str) -> None:
    [container] = pod()["containers"]
    assert container[probe]["httpGet"]["path"] == path
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]


def test_the_pod_drains_and_is_nobody_in_particular() -> None:
    found = pod()
    assert found["terminationGracePeriodSeconds"] > DRAIN_S
    assert found["securityContext"]["runAsNonRoot"] is True
    [container] = found["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_pod_has_a_token_which_listening_beyond_the_machine_needs() -> None:
    [container] = pod()["containers"]
    assert [variable["name"] for variable in container["env"]] == ["ESPER_API_TOKEN"]


def test_the_container_runs_as_a_user_of_its_own_and_takes_signals() -> None:
    lines = (CONFIG / "container" / "Containerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == [str(pod()["securityContext"]["runAsUser"])]
    assert any(f"--uid {users[0]} " in line and line.endswith(" esper \\") for line in lines)
    assert 'ENTRYPOINT ["tini", "--", "/opt/esper/bin/esper-supervisor"]' in lines
    assert "STOPSIGNAL SIGTERM" in lines


def test_the_code_is_compiled_before_the_container_loses_the_right_to() -> None:
    """Else each training process compiles all of it, seconds before it trains again."""
    lines = (CONFIG / "container" / "Containerfile").read_text().splitlines()
    compiled = lines.index("RUN python -m compileall -q esper_async")
    assert lines.index("COPY --chown=root:root . .") < compiled
    assert compiled < next(at for at, line in enumerate(lines) if line.startswith("USER "))
