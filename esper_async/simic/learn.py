"""`python -m esper_async.simic.learn STATE_DIR FILE.json`: a belief for the `bandit` policy."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from esper_async.simic.bandit import learn_belief
from esper_async.simic.experience import Experience
from esper_async.simic.lessons import lessons_from
from esper_async.simic.schema import Query
from esper_async.simic.store import ExperienceStore
from esper_async.tamiyo.policies.linear_belief import FeatureVersionError, save_belief

_PAGE = 1_000
_PLANTED = Query(operation="GERMINATE", reported=True)


def planted(store: ExperienceStore) -> Iterator[Experience]:
    """Yield every germination that was reported on, in order of arrival."""
    after = 0
    while page := store.experiences(_PLANTED, limit=_PAGE, after=after):
        after = page[-1][0]
        yield from (each for _, each in page)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.simic.learn")
    parser.add_argument("state_dir", type=Path, help="as .esper")
    parser.add_argument("output", type=Path, help="the file that is written")
    asked = parser.parse_args(argv)
    try:
        with closing(ExperienceStore.of(asked.state_dir)) as store:
            lessons = lessons_from(planted(store))
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except FeatureVersionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not len(lessons):
        why = "; ".join(f"{count}: {reason}" for reason, count in lessons.skipped.items())
        sys.stderr.write(
            f"nothing to learn from in {asked.state_dir} ({why or 'nothing was planted'})\n"
        )
        return 1
    belief = learn_belief(lessons)
    lineage = {"lessons": len(lessons), "runs": sorted(lessons.runs), "learner": "bandit-1"}
    save_belief(belief, asked.output, lineage=lineage)
    sys.stdout.write(
        f"{asked.output}: {belief.digest}, from {len(lessons)} placements of "
        f"{len(lessons.runs)} runs\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
