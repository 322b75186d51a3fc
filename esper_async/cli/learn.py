"""`learn`: let Simic learn from what was experienced, and say whether it may be trusted."""

from pathlib import Path

from esper_async.cli.failure import EXIT_FAILED, CommandError
from esper_async.cli.output import Output
from esper_async.runtime.files import write_json_atomically
from esper_async.simic.doubly_robust import Difference
from esper_async.simic.learn import NothingToLearnError, learn_into
from esper_async.simic.validate import validate
from esper_async.tamiyo.policies.learned import FeatureVersionError


def learn(state_dir: Path, output: Output, *, file: Path | None, keep_back: float) -> int:
    """Learn an ensemble from a part of the runs and judge it by the rest; 1 if it does not pass.

    Raises:
        CommandError: there is no experience, or none that teaches anything.
    """
    path = file or state_dir / "simic" / "awr.json"
    record_path = path.with_name(f"{path.stem}-record.json")
    try:
        learned = learn_into(state_dir, path, keep_back=keep_back)
    except (FileNotFoundError, FeatureVersionError, NothingToLearnError) as error:
        raise CommandError(
            f"{error}; `collect FILE` gathers experience, and so does every run under `up`"
        ) from None
    found, record = validate(state_dir, path)
    write_json_atomically(record_path, record)
    document = {"file": str(path), "record_file": str(record_path), **record}
    output.result(document, [f"{path}: {learned.summary}", *_verdict(found), str(record_path)])
    return 0 if found.passes else EXIT_FAILED


def _verdict(found: Difference) -> list[str]:
    if found.refusals:
        return ["nothing can be said of how good it is:", *(f"  {why}" for why in found.refusals)]
    word = "passes" if found.passes else "does not pass"
    return [
        f"a decision earns {found.value:+.3f} of reward above placements drawn evenly "
        f"[{found.low:+.3f}, {found.high:+.3f}], by {found.trials} placements of {found.runs} "
        f"other runs: {word}"
    ]
