"""What each seed of a run costs to train in shadow: the account of a run sums them up."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from esper_async.kasmina.compute import ComputeAccount
from esper_async.study.bench.benchmark import replaced


@contextmanager
def shadow_macs_by_seed() -> Iterator[dict[str, float]]:
    """Yield a dict that fills with the multiply-accumulates of each seed's shadow passes.

    Of runs of this process that train within the block. What seeds share that learn in one pass is
    split evenly.
    """
    found: dict[str, float] = {}
    whole = ComputeAccount.shadow_pass

    def metered(
        account: ComputeAccount, seed_ids: Sequence[str], batch: Any, work: Callable[[], object]
    ) -> None:
        before = account.shadow_macs
        whole(account, seed_ids, batch, work)
        share = (account.shadow_macs - before) / len(seed_ids)
        for seed_id in seed_ids:
            found[seed_id] = found.get(seed_id, 0.0) + share

    with replaced(f"{ComputeAccount.__module__}.ComputeAccount.shadow_pass", metered):
        yield found
