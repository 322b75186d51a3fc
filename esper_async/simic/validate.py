"""`python -m esper_async.simic.validate STATE_DIR FILE.json`: is what was learned no worse?

A doubly robust estimate of the reward a decision that a policy of `simic.learn` earns above the
active one: `--active FILE.json`, or without that placements drawn evenly. Runs that the policy
was learned from do not judge it: learn with `--keep-back`. The record is printed as JSON, pass or
fail; the exit code is 0 only for a pass.
"""

import argparse
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from esper_async.runtime.files import write_json_atomically
from esper_async.simic.doubly_robust import Chances, Difference, difference
from esper_async.simic.learn import planted
from esper_async.simic.reward import FORMULA_VERSION
from esper_async.simic.store import ExperienceStore
from esper_async.simic.trials import Trial, trials_from
from esper_async.tamiyo.offer import Floats
from esper_async.tamiyo.policies.from_document import learned_of
from esper_async.tamiyo.policies.learned import FeatureVersionError, digest_of


def even(features: Floats) -> Floats:
    """Return the probabilities (P,) of a draw that prefers nothing."""
    return np.full(len(features), 1.0 / len(features))


def judged(trials: Sequence[Trial], learned_from: Collection[str]) -> list[Trial]:
    """Return the trials of runs that taught neither policy."""
    taught = frozenset(learned_from)
    return [trial for trial in trials if trial.run not in taught]


def _policy(document: Mapping[str, Any] | None) -> tuple[Chances, str, list[str]]:
    """Return a policy, its digest and the runs that it was learned from; without one `even`."""
    if document is None:
        return even, "even", []
    learned = learned_of(document)
    return learned.probabilities, digest_of(learned), list(document["lineage"]["runs"])


def _record(found: Difference, new: str, active: str) -> dict[str, Any]:
    return {
        "new": new,
        "active": active,
        "reward_version": FORMULA_VERSION,
        "passes": found.passes,
        **{name: _told(value) for name, value in asdict(found).items()},
    }


def _told(value: object) -> object:
    """Return what JSON has: a figure that is not a number was not measured."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    state_dir: Path, new: Mapping[str, Any], active: Mapping[str, Any] | None = None
) -> tuple[Difference, dict[str, Any]]:
    """Compare a policy with another, or with an even draw; return the difference, its record.

    A belief is judged as it begins a run: what it learns within that is not seen.

    Raises:
        FileNotFoundError: there is no experience.
        CorruptPolicyError: a document holds no policy.
        FeatureVersionError: it is of features that this code does not have.
    """
    ours, named, taught = _policy(new)
    theirs, other, also = _policy(active)
    with closing(ExperienceStore.of(state_dir)) as store:
        trials = trials_from(planted(store)).trials
    found = difference(judged(trials, [*taught, *also]), ours, theirs)
    return found, _record(found, named, other)


def validate(
    state_dir: Path, file: Path, active: Path | None = None
) -> tuple[Difference, dict[str, Any]]:
    """Compare the policy in a file with another's, or with an even draw, as `compare` does.

    Raises:
        OSError: a file or the experience is not there.
        KeyError, ValueError: a file holds no policy.
    """
    documents = [None if path is None else json.loads(path.read_text()) for path in (file, active)]
    return compare(state_dir, documents[0] or {}, documents[1])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.simic.validate")
    parser.add_argument("state_dir", type=Path, help="as .esper")
    parser.add_argument("file", type=Path, help="the policy that is judged")
    parser.add_argument("--active", type=Path, help="the policy that it is compared with")
    parser.add_argument("--record", type=Path, help="where the record is written, too")
    asked = parser.parse_args(argv)
    try:
        found, record = validate(asked.state_dir, asked.file, asked.active)
    except (OSError, KeyError, ValueError, FeatureVersionError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    if asked.record is not None:
        write_json_atomically(asked.record, record)
    sys.stdout.write(json.dumps(record, indent=1) + "\n")
    return 0 if found.passes else 1


if __name__ == "__main__":
    raise SystemExit(main())
