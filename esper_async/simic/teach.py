"""`python -m esper_async.simic.teach STATE_DIR FILE.policy`: the graph policy learns from its runs.

At the lowest priority, with a checkpoint beside the file after every pass: a process that was
killed and is started again goes on from there, and comes to the same weights.
"""

import argparse
import io
import os
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import torch

from esper_async.runtime.files import write_atomically
from esper_async.runtime.tensor_file import read_tensors
from esper_async.simic.episodes import Episodes, episodes_from
from esper_async.simic.graph_learner import IMPALA, PPO, GraphLearner, Method
from esper_async.simic.learn import NothingToLearnError
from esper_async.simic.learning import tell_pass
from esper_async.simic.lora import RANK
from esper_async.simic.reward import FORMULA_VERSION
from esper_async.simic.store import ExperienceStore
from esper_async.simic.surrogates import Loss
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.network.policy_file import load_policy, save_policy
from esper_async.tamiyo.policies.graph import SHIPPED
from esper_async.tamiyo.policy_header import PolicyHeader

METHODS = {"ppo": PPO, "impala": IMPALA}
_LOWEST_PRIORITY = 19


def teach_into(
    state_dir: Path, output: Path, method: Method, *, parent: Path = SHIPPED
) -> tuple[PolicyHeader, Episodes, GraphLearner]:
    """Teach a policy by the experience in a state directory, and write it to a file.

    What was kept beside the file by a process that did not come to its end is gone on from, unless
    it is of other runs, of another method or of another policy; it is removed at the end.

    Raises:
        FileNotFoundError: the state directory holds no experience, or there is no such policy.
        NothingToLearnError: none of it is of the graph policy; nothing was written.
        PolicyFileError: the policy cannot be used.
        FloatingPointError: a loss is not finite; nothing was written.
    """
    with closing(ExperienceStore.of(state_dir)) as store:
        told = episodes_from(store.trajectories())
    if not told.found:
        why = "; ".join(f"{count}: {reason}" for reason, count in sorted(told.skipped.items()))
        raise NothingToLearnError(
            f"nothing to learn from in {state_dir} ({why or 'no run has decided anything'})"
        )
    network, header = load_policy(parent)
    learner = GraphLearner(network, told.found, method)
    kept = output.with_name(f"{output.name}.learning")
    _go_on(learner, kept, header.checksum)

    def after_pass(loss: Loss) -> None:
        _keep(learner, kept, header.checksum)
        tell_pass(state_dir, method.name, time.time(), _figures(loss))

    learner.learn(after_pass=after_pass)
    lineage = {
        "learner": method.to_json(),
        "parent": header.version,
        "runs": [episode.run for episode in told.found],
        "steps": len(told),
        "reward_version": FORMULA_VERSION,
    }
    saved = save_policy(learner.finish(), output, name=method.name, lineage=lineage)
    kept.unlink(missing_ok=True)
    return saved, told, learner


def _figures(loss: Loss) -> dict[str, float]:
    """Return a loss and its parts as they are told; one synchronisation a pass."""
    parts = {
        "loss": loss.total, "policy_loss": loss.policy, "value_loss": loss.value,
        "entropy": loss.entropy, "kl": loss.kl,
    }  # fmt: skip
    return {name: float(part.detach()) for name, part in parts.items()}


def _keep(learner: GraphLearner, path: Path, parent: str) -> None:
    buffer = io.BytesIO()
    torch.save({**learner.state_dict(), "parent": parent}, buffer)
    write_atomically(path, buffer.getvalue())


def _go_on(learner: GraphLearner, path: Path, parent: str) -> None:
    """Take up what was kept, where it is of this policy, these runs and this method."""
    unreadable = (FileNotFoundError, RuntimeError, ValueError)
    with suppress(*unreadable):  # of another lesson: this one begins anew
        state = read_tensors(path)
        if state.pop("parent") == parent:
            learner.load_state_dict(state)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.simic.teach")
    parser.add_argument("state_dir", type=Path, help="as .esper")
    parser.add_argument("output", type=Path, help="the policy's file that is written")
    parser.add_argument("--method", choices=sorted(METHODS), default="ppo")
    parser.add_argument("--parent", type=Path, default=SHIPPED, help="the policy that learns")
    parser.add_argument("--passes", type=int, help="over all of the runs")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the steps")
    parser.add_argument(
        "--rank", type=int, metavar="R", help=f"learn in adapters of this rank, as {RANK}"
    )
    asked = parser.parse_args(argv)
    method = replace(METHODS[asked.method], seed=asked.seed, rank=asked.rank)
    if asked.passes is not None:
        method = replace(method, passes=asked.passes)
    if method.passes < 1 or (method.rank is not None and method.rank < 1):
        parser.error("--passes and --rank are at least 1")
    os.nice(_LOWEST_PRIORITY)
    torch.set_num_threads(1)
    try:
        header, told, learner = teach_into(
            asked.state_dir, asked.output, method, parent=asked.parent
        )
    except (FileNotFoundError, PolicyFileError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (NothingToLearnError, FloatingPointError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"{asked.output}: {header.version}, by {learner.updates} updates from {len(told)} steps of "
        f"{len(told.found)} runs\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
