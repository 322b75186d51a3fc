"""`python -m esper_async.tamiyo.imitation`: make the policy that ships, and say how good it is."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.imitation.teach import Lesson, agreement, teach
from esper_async.tamiyo.network.policy_file import save_policy
from esper_async.tamiyo.policies.graph import SHIPPED

HELD_OUT_SEED = 7_919
HELD_OUT_STATES = 400
_TOLD_EVERY = 20


def main() -> int:
    """Teach, compare with the heuristic on states that were not taught, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.tamiyo.imitation")
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED, help="where it is written")
    parser.add_argument("--steps", type=int, default=Lesson().steps, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=Lesson().seed)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lesson = Lesson(seed=asked.seed, steps=asked.steps)
    network = teach(lesson, progress=_tell)
    draw = StateDraw(HELD_OUT_SEED)
    found = agreement(network, [draw.view(sites=(1, 24)) for _ in range(HELD_OUT_STATES)])
    lineage = {
        "teacher": "heuristic",
        "lesson": lesson.to_json(),
        "torch": torch.__version__.split("+")[0],
        "agreement": asdict(found),
    }
    header = save_policy(network, asked.output, name="imitation-1", lineage=lineage)
    print(  # noqa: T201 - a command's result
        f"{asked.output}: {header.version}; as the heuristic on {found.same:.1%} of "
        f"{found.states} held-out states, first candidates {found.distance:.3f} apart"
    )
    return 0


def _tell(step: int, loss: float) -> None:
    if step % _TOLD_EVERY == 0:
        print(f"step {step}: {loss:.3f}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
