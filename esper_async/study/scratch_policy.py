"""The policy of a study's `learned` arms, made from scratch: from runs that teach.

What is learned depends on nothing but the plan and the code, so that whoever runs the plan again
can tell whether the policy that comes along is what comes of it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.simic.learn import learn_into
from esper_async.study.collect.gathering import collect_plan
from esper_async.study.ledger import code_fingerprint
from esper_async.study.plan import LearningPlan
from esper_async.tamiyo.shipped import shipped_document

FILE = "learned.json"


class RunsFailedError(RuntimeError):
    """Runs that were to teach have no result; the message names one."""


@dataclass(frozen=True, slots=True)
class Taught:
    """A policy that a study has made.

    `document` is what it decides by, `summary` says of how much it was made, and `is_shipped`
    whether it decides just as the one that comes along.
    """

    file: Path
    document: Mapping[str, Any]
    summary: str
    is_shipped: bool

    @property
    def words(self) -> str:
        """A line of it, for people."""
        same = "decides as" if self.is_shipped else "is another than"
        return f"{self.file}: {self.summary}; it {same} the policy that comes along"


def teach(
    plan: LearningPlan,
    root: Path,
    folder: Path,
    *,
    command: str,
    workers: int | None,
    nice: int,
    tell: Callable[[str], None],
) -> Taught:
    """Make the runs that teach and learn from them; the policy is written to `folder`.

    The runs lie under `root`, for every study that learns from them; those of other code lie
    elsewhere, so that they teach nothing here. `command` goes into the policy's lineage.

    Raises:
        NothingToLearnError: no run that taught told anything.
        RunsFailedError: not every one of them has a result.
        OSError, sqlite3.Error: the disk refused.
    """
    collection, code = plan.collection, code_fingerprint()
    school = (
        root / "schools" / f"{collection.name.replace(' ', '-')}-{collection.hash[:8]}-{code[:8]}"
    )
    collected = collect_plan(collection, school, workers=workers, nice=nice, tell=tell)
    if collected.failures:
        what, why = next(iter(collected.failures.items()))
        raise RunsFailedError(
            f"{len(collected.failures)} runs that were to teach failed: {what}: {why}"
        )
    file = folder / FILE
    learned = learn_into(
        school, file, learner=plan.learner, lineage={"command": command, "code": code}
    )
    document = json.loads(file.read_bytes())
    tell(f"{file}: {learned.summary}")
    same = _decides_by(document) == _decides_by(shipped_document())
    return Taught(file, document, learned.summary, same)


def _decides_by(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "lineage"}
