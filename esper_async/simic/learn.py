"""`python -m esper_async.simic.learn STATE_DIR FILE.json`: what a policy decides by, from runs.

`--learner awr` (the default) makes an ensemble for the policy `awr`, from decisions whose whole
choice was recorded; `--learner bandit` a belief for the policy `bandit`, from every germination.
"""

import argparse
import hashlib
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper_async.simic.awr import learn_ensemble
from esper_async.simic.bandit import learn_belief
from esper_async.simic.experience import Experience
from esper_async.simic.lessons import lessons_from
from esper_async.simic.reward import FORMULA_VERSION
from esper_async.simic.schema import Query
from esper_async.simic.store import ExperienceStore
from esper_async.simic.trials import trials_from
from esper_async.tamiyo.policies.learned import (
    AsJson,
    FeatureVersionError,
    digest_of,
    save_learned,
)

_PAGE = 1_000
_PLANTED = Query(operation="GERMINATE", reported=True)


class NothingToLearnError(RuntimeError):
    """No experience teaches anything; the message says why not."""


def planted(store: ExperienceStore) -> Iterator[Experience]:
    """Yield every germination that was reported on, in order of arrival."""
    after = 0
    while page := store.experiences(_PLANTED, limit=_PAGE, after=after):
        after = page[-1][0]
        yield from (each for _, each in page)


def kept_back(each: Experience, share: float) -> bool:
    """Whether the run of an experience is kept back: always the same runs for the same share."""
    name = hashlib.sha256(each.step.decision.run_id.encode()).digest()
    return int.from_bytes(name[:8]) < share * 2**64


@dataclass(frozen=True, slots=True)
class Learned:
    """What a learner made of the experience."""

    what: AsJson
    lessons: int
    runs: frozenset[str]
    skipped: Counter[str]

    @property
    def summary(self) -> str:
        """A line of it, for people."""
        return f"{digest_of(self.what)}, from {self.lessons} placements of {len(self.runs)} runs"


def learn_awr(experiences: Iterable[Experience], *, seed: int) -> Learned:
    """Learn an ensemble by advantage-weighted regression."""
    told = trials_from(experiences)
    ensemble = learn_ensemble(told.trials, seed=seed)
    return Learned(ensemble, len(told.trials), told.runs, told.skipped)


def learn_bandit(experiences: Iterable[Experience], *, seed: int) -> Learned:
    """Learn a belief as the pessimistic bandit does, which draws nothing at random."""
    told = lessons_from(experiences)
    return Learned(learn_belief(told), len(told), told.runs, told.skipped)


class _DataDigest:
    """A name for the experiences that were read, whatever order they came in."""

    def __init__(self) -> None:
        self._each: list[bytes] = []

    def reading(self, experiences: Iterable[Experience]) -> Iterator[Experience]:
        """Yield experiences, and take note of each."""
        for each in experiences:
            told = hashlib.sha256(each.step.decision.SerializeToString(deterministic=True))
            for report in each.step.reports:
                told.update(report.SerializeToString(deterministic=True))
            self._each.append(told.digest())
            yield each

    @property
    def hexadecimal(self) -> str:
        """SHA-256 of all that was read."""
        return hashlib.sha256(b"".join(sorted(self._each))).hexdigest()


LEARNERS = {"awr": learn_awr, "bandit": learn_bandit}


def learn_into(
    state_dir: Path,
    output: Path,
    *,
    learner: str = "awr",
    seed: int = 0,
    keep_back: float = 0.0,
    lineage: Mapping[str, Any] | None = None,
) -> Learned:
    """Learn from the experience in a state directory, and write what was learned to a file.

    Args:
        learner: one of `LEARNERS`.
        seed: of the members' draws.
        keep_back: the share of the runs that teach nothing, and so can judge.
        lineage: what else is written of how it came to be.

    Raises:
        FileNotFoundError: the state directory holds no experience.
        FeatureVersionError: it is of features that this code does not have.
        NothingToLearnError: none of it teaches anything; nothing was written.
    """
    with closing(ExperienceStore.of(state_dir)) as store:
        taught = (each for each in planted(store) if not kept_back(each, keep_back))
        data = _DataDigest()
        learned = LEARNERS[learner](data.reading(taught), seed=seed)
    if not learned.lessons:
        why = "; ".join(f"{count}: {reason}" for reason, count in learned.skipped.items())
        raise NothingToLearnError(
            f"nothing to learn from in {state_dir} ({why or 'nothing was planted'})"
        )
    whole = {
        "data": data.hexadecimal,
        "lessons": learned.lessons,
        "runs": sorted(learned.runs),
        "learner": f"{learner}-1",
        "reward_version": FORMULA_VERSION,
        "seed": seed,
        "kept_back": keep_back,
        **(lineage or {}),
    }
    save_learned(learned.what, output, lineage=whole)
    return learned


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.simic.learn")
    parser.add_argument("state_dir", type=Path, help="as .esper")
    parser.add_argument("output", type=Path, help="the file that is written")
    parser.add_argument("--learner", choices=sorted(LEARNERS), default="awr")
    parser.add_argument("--seed", type=int, default=0, help="of the members' draws")
    parser.add_argument(
        "--keep-back", type=float, default=0.0, metavar="SHARE",
        help="of the runs, drawn by their names, that teach nothing and so can judge",
    )  # fmt: skip
    words = sys.argv[1:] if argv is None else argv
    asked = parser.parse_args(words)
    if not 0.0 <= asked.keep_back < 1.0:
        parser.error(f"--keep-back {asked.keep_back} is no share below 1")
    try:
        learned = learn_into(
            asked.state_dir,
            asked.output,
            learner=asked.learner,
            seed=asked.seed,
            keep_back=asked.keep_back,
            lineage={"command": shlex.join(["python", "-m", "esper_async.simic.learn", *words])},
        )
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (FeatureVersionError, NothingToLearnError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{asked.output}: {learned.summary}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
