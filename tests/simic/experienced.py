"""A state directory with experience in it: of three blueprints the third helps."""

from pathlib import Path

from esper_async.simic import ExperienceStore
from tests.simic.test_awr import planted

RUNS = 180


def experienced(state_dir: Path) -> None:
    """Store what 180 runs told of two plantings each, drawn evenly from nine places."""
    store = ExperienceStore(state_dir / "simic" / "experience.sqlite", now=lambda: 1e6)
    messages = []
    for number in range(2 * RUNS):
        run, place = f"run{number // 2}", number % 9
        message, told = planted(number, place, 0.1 if place % 3 == 2 else -0.05)
        for each in (message, told):
            each.run_id = run
        message.command.run_id = run
        messages += [(message, f"{number}/d"), (told, f"{number}/r")]
    store.take_many(messages)  # type: ignore[arg-type]
    store.close()
