"""`dead-letters` against a supervisor that runs over a real bus."""

import asyncio
import os
import pty
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from esper_async.leyline import Alert, FieldReport, Signer, load_key, wrap
from esper_async.oona.dead_letters import dead_letter_fields
from esper_async.oona.streams import DEAD_LETTERS, WIRE_FIELD, normal_lane
from esper_async.testing.redis import running_redis
from tests.cli.conftest import COMMAND, Cli, Running, Up, environment
from tests.cli.test_bad_input import assert_named

OTHER_KEY = bytes(range(32))
KEPT = 1_200


class Here:
    """A supervisor over a server of the test's own."""

    def __init__(self, url: str, up: Up, cli: Cli) -> None:
        self.redis = redis.Redis.from_url(url)
        settings = (f"oona.redis_url={url}", f"oona.dead_letters_kept={KEPT}")
        flags = [word for setting in settings for word in ("--set", setting)]
        self._start = lambda: up("--no-run", *flags)
        self._cli = cli
        self.running: Running = self._start()
        self.running.wait_ready()

    def letters(self, *arguments: str, **variables: str) -> Any:
        where = ("--state-dir", str(self.running.state_dir))
        return self._cli("dead-letters", *where, *arguments, **variables)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        return list(self.letters(*arguments, "--json").document)

    def put(self, *numbers: int, topic: str = "policy_updates") -> None:
        """Put letters there, of a topic for which nobody waits here."""
        signer = Signer(load_key(self.running.state_dir / "leyline.key"))
        for number in numbers:
            alert = Alert(version=1, alert_id=f"a{number}", name="test")
            fields = dead_letter_fields(
                wrap(alert, source="x", signer=signer), topic=topic, stream=normal_lane(topic),
                group="nissa", entry_id="1-0", reason=f"why {number}", attempts=3,
            )  # fmt: skip
            self.redis.xadd(DEAD_LETTERS, fields)

    def start_again(self) -> None:
        assert self.running.stop() == 0
        self.running = self._start()
        self.running.wait_ready()

    def taken_by_simic(self) -> float:
        """How many reports have taken effect."""
        sample = 'esper_oona_handled_total{group="simic",topic="field_reports"} '
        with urllib.request.urlopen(self.running.url("/metrics"), timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(sample))

    def added_to(self, topic: str) -> int:
        """How many messages a topic has got, those included that are taken and trimmed."""
        return int(self.redis.xinfo_stream(normal_lane(topic))["entries-added"])

    def end(self) -> None:
        assert self.running.stop() == 0
        self.redis.close()


def over_a_real_bus(test: Callable[[Here], None], up: Up, cli: Cli) -> None:
    """Run a test, which waits for processes, beside the loop that the server needs."""

    def inside(url: str) -> None:
        here = Here(url, up, cli)
        try:
            test(here)
        finally:
            here.end()

    async def run() -> None:
        async with running_redis() as server:
            await asyncio.to_thread(inside, server.url)

    asyncio.run(run())


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_letters_are_listed_page_by_page_replayed_and_purged(up: Up, cli: Cli) -> None:
    over_a_real_bus(_tools, up, cli)


def _tools(here: Here) -> None:
    here.put(1, 2, 3)
    here.put(4, topic="control")
    ids = [letter["id"] for letter in here.listed()]
    assert len(ids) == 4
    assert [letter["id"] for letter in here.listed("--limit", "2", "--after", ids[0])] == ids[1:3]
    assert [letter["id"] for letter in here.listed("--topic", "control")] == ids[3:]
    page = here.letters("--limit", "2").out
    assert ids[1] in page
    assert ids[2] not in page
    assert f"--after {ids[1]}" in page
    assert "--after" not in here.letters().out

    assert here.letters("replay", ids[0]).code == 0
    assert here.added_to("policy_updates") == 1
    assert here.letters("purge", ids[1]).code == 0
    assert [letter["id"] for letter in here.listed()] == ids[2:]
    assert_named(here.letters("replay", ids[0]), 2, ids[0])

    answer = here.letters("replay", "--all", "--topic", "policy_updates", "--json")
    assert answer.document == {"replayed": 1}
    assert here.added_to("policy_updates") == 2
    here.put(*range(1_100))
    assert len(here.listed("--limit", "1101")) == 1_101  # more than one request brings
    assert "1,100 dead letters" in here.letters("replay", "--all", "--topic", "policy_updates").out
    here.put(*range(KEPT + 50))
    until(lambda: here.redis.xlen(DEAD_LETTERS) == KEPT)
    here.put(1, topic="control")

    assert_named(here.letters("purge", "--all"), 2, "--yes")
    assert_named(here.letters("purge", "--all", "--topic", "alert", "--yes"), 2, "alert", "alerts")
    assert (
        "1 dead letter is gone" in here.letters("purge", "--all", "--topic", "control", "--yes").out
    )
    left = here.redis.xlen(DEAD_LETTERS)
    code, said = on_a_terminal(here, "n")
    assert (code, "every dead letter" in said) == (1, True), said
    assert here.redis.xlen(DEAD_LETTERS) == left
    code, said = on_a_terminal(here, "y")
    assert (code, f"{left:,} dead letters are gone" in said) == (0, True), said
    assert here.listed() == []


def on_a_terminal(here: Here, answer: str) -> tuple[int, str]:
    """Purge all of them, and answer the question that comes."""
    ours, theirs = pty.openpty()
    where = ["--state-dir", str(here.running.state_dir)]
    command = [*COMMAND, "dead-letters", *where, "purge", "--all"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
    ) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said, _ = process.communicate(timeout=30)
    os.close(ours)
    return process.returncode, said.decode()


def test_reports_under_another_key_take_effect_once_the_key_is_put_right(up: Up, cli: Cli) -> None:
    over_a_real_bus(_key_put_right, up, cli)


def _key_put_right(here: Here) -> None:
    for number in range(3):
        made = FieldReport(version=1, report_id=f"r{number}", outcome=2, run_id="run")
        wire = wrap(made, source="x", signer=Signer(OTHER_KEY))
        here.redis.xadd(normal_lane("field_reports"), {WIRE_FIELD: wire})
    until(lambda: len(here.listed()) == 3)
    assert all(letter["id"].startswith("forged-") for letter in here.listed())
    assert "docs/bus.md" in here.letters("show", here.listed()[0]["id"]).out
    with Path(here.running.state_dir / "leyline.key").open("a") as file:
        file.write(f"{OTHER_KEY.hex()}\n")
    here.start_again()
    assert here.letters("replay", "--all").code == 0
    until(lambda: here.taken_by_simic() == 3)
    assert here.listed() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("replay",), ("which letter", "--all")),
        (("purge",), ("which letter", "--all")),
        (("replay", "1-0", "--all"), ("1-0", "--all", "not both")),
        (("purge", "1-0", "--topic", "policy_updates"), ("--topic", "--all")),
        (("--limit", "0"), ("--limit",)),
    ],
)
def test_a_request_that_names_no_letter_is_wrong_before_anybody_is_asked(
    arguments: tuple[str, ...], words: tuple[str, ...], cli: Cli
) -> None:
    assert_named(cli("dead-letters", *arguments), 2, *words)
