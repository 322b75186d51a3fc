"""Training loaders with worker processes: the same batches, in this run and in a resumed one."""

import random
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from esper_async.kasmina.call import move
from esper_async.tolaria import global_random
from esper_async.tolaria.control import Steer
from esper_async.tolaria.epoch_loader import EpochLoader
from esper_async.tolaria.loader_workers import has_workers
from esper_async.tolaria.second_pass import check_passes
from esper_async.tolaria.task import Task, TaskError
from tests.growth_hosts import differing, make_batches
from tests.tolaria.growth_tasks import listed
from tests.tolaria.test_engine import Script, options, run, weights

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")

ROWS = torch.arange(12.0)


class Augmented(Dataset[Tensor]):
    """Rows with noise that every kind of random number has a part in."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Tensor:
        return ROWS[index] + torch.rand(()) + random.random() + float(np.random.rand())


class Stream(IterableDataset[Tensor]):
    """Rows one after the other, each worker its own share; `noise` is added to them."""

    def __init__(self, noise: float = 0.0) -> None:
        self._noise = noise

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for row in ROWS[first::step]:
            yield row + self._noise * torch.rand(())


class Measured(Stream):
    """A stream that says how long it is, or thinks it is."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __len__(self) -> int:
        return self._length


def of(dataset: Any, *, kept: bool = False, **settings: Any) -> Any:
    return DataLoader(
        dataset, batch_size=3, num_workers=2, persistent_workers=kept, prefetch_factor=1, **settings
    )


def own_generator() -> Any:
    generator = torch.Generator().manual_seed(5)
    return of(TensorDataset(ROWS), kept=True, shuffle=True, generator=generator)


REPEATED: dict[str, Callable[[], Any]] = {
    "augmented in new workers": lambda: of(Augmented(), shuffle=True),
    "shuffled for kept workers": lambda: of(TensorDataset(ROWS), kept=True, shuffle=True),
    "shuffled by an own generator": own_generator,
    "a noisy stream from new workers": lambda: of(Stream(0.1)),
    "a stream from kept workers": lambda: of(Stream(), kept=True),
}
UNREPEATED: dict[str, Callable[[], Any]] = {
    "augmented in kept workers": lambda: of(Augmented(), kept=True, shuffle=True),
    "a noisy stream from kept workers": lambda: of(Stream(0.1), kept=True),
}


@pytest.mark.parametrize(
    ("name", "epochs", "batches"),
    [
        *((name, 1, 3) for name in REPEATED),
        *((name, *at) for name in REPEATED if "kept" in name for at in ((0, 2), (1, 0))),
    ],
)
def test_a_resumed_loader_yields_what_the_other_would_have(
    name: str, epochs: int, batches: int
) -> None:
    global_random.seed_everything(1)
    uninterrupted = EpochLoader(REPEATED[name]())
    for _ in range(epochs):
        list(numbers(uninterrupted))
    going = numbers(uninterrupted)
    for _ in range(batches):
        next(going)
    position, streams = uninterrupted.state_dict(), global_random.capture()
    expected = [*going, *numbers(uninterrupted)]

    torch.manual_seed(77)
    resumed = EpochLoader(REPEATED[name]())
    resumed.load_state_dict(position)
    global_random.restore(streams)
    assert [*numbers(resumed), *numbers(resumed)] == expected


def numbers(loader: EpochLoader) -> Iterator[list[float]]:
    for batch in loader.steps():
        torch.rand(3)  # the training step draws too
        tensor = batch[0] if isinstance(batch, list | tuple) else batch
        yield [float(value) for value in tensor.reshape(-1)]


@pytest.mark.parametrize("name", [*REPEATED, *UNREPEATED])
def test_whether_a_resumed_run_sees_the_same_batches_is_found_out_beforehand(name: str) -> None:
    loader = {**REPEATED, **UNREPEATED}[name]()
    document: dict[str, Any] = {"problems": []}
    check_passes(listed(train_loader=loader), options(), document)
    assert document["problems"] == []
    assert document["resumable"] == ("bitwise" if name in REPEATED else "approximate")
    assert name in REPEATED or "persistent_workers=False" in document["resumable_why"]
    assert not has_workers(loader)


def worked(**changes: Any) -> Task:
    """Return a task whose training and validation loaders keep their workers."""
    batches = make_batches("mlp", count=6)

    def split(parts: list[Any], **settings: Any) -> Any:
        dataset = TensorDataset(*(torch.cat(column) for column in zip(*parts, strict=True)))
        return DataLoader(
            dataset, batch_size=16, num_workers=1, persistent_workers=True, **settings
        )

    loaders = {
        "train_loader": split(batches[:4], shuffle=True),
        "validation_loader": split(batches[4:]),
    }
    return listed(test_loader=None, **{**loaders, **changes})


@pytest.mark.parametrize("cut", [6, 8])
def test_a_run_whose_workers_live_on_is_drained_and_goes_on_bitwise(
    tmp_path: Path, cut: int
) -> None:
    whole, _ = run(worked(), epochs=4)
    run(worked(), tmp_path, Script({cut: [Steer("drain")]}), epochs=4)
    rest, records = run(worked(), tmp_path, epochs=4)
    assert [r["bitwise"] for r in records if r["kind"] == "resumed"] == [True]
    assert rest.history == whole.history
    assert differing(weights(whole), weights(rest)) == []


@pytest.mark.usefixtures("one_thread")
def test_a_run_on_kept_workers_is_bitwise_the_loop_by_hand() -> None:
    outcome, _ = run(worked(optimizer=sgd, clip_norm=0.5), policy="static", epochs=3)

    task: Any = worked()
    torch.manual_seed(3)
    optimizer = sgd(task.model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    for _ in range(3):
        task.model.train()
        for inputs, targets in task.train_loader:
            optimizer.zero_grad()
            F.cross_entropy(task.model(inputs), targets).backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 0.5)
            optimizer.step()
        task.model.eval()
        for inputs, _ in task.validation_loader:
            task.model(inputs)
        schedule.step()
    assert differing(dict(task.model.state_dict()), weights(outcome)) == []


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def test_workers_of_a_run_before_make_no_difference() -> None:
    loaders = {name: getattr(worked(), name) for name in ("train_loader", "validation_loader")}
    first, _ = run(worked(**loaders), policy="static", epochs=2)
    for loader in loaders.values():
        next(iter(loader))
    assert has_workers(loaders["train_loader"])
    second, _ = run(worked(**loaders), policy="static", epochs=2)
    assert not any(map(has_workers, loaders.values()))
    assert differing(weights(first), weights(second)) == []


def streamed(stream: Stream, **settings: Any) -> Task:
    """Return a task that learns from a stream of rows (N,)."""
    torch.manual_seed(0)
    rows = [ROWS.reshape(4, 3)]
    return Task(
        model=nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)),
        train_loader=DataLoader(stream, batch_size=3, **settings),
        validation_loader=rows,
        loss=F.mse_loss,
        forward=lambda model, batch: (model(batch.reshape(-1, 1) / 10), batch.reshape(-1, 1)),
    )


def test_a_stream_without_a_length_is_trained_on_by_epochs_and_not_by_steps() -> None:
    outcome, _ = run(streamed(Stream(), num_workers=2), policy="static", epochs=2)
    assert outcome.history[-1]["step"] == 8
    with pytest.raises(TaskError, match="needs a train_loader with a length"):
        run(streamed(Stream()), policy="static", epochs=2, boundary_every=2)


def test_a_stream_that_is_shorter_than_it_says_is_not_trained_on_for_longer() -> None:
    outcome, _ = run(streamed(Measured(24)), policy="static", epochs=3, boundary_every=4)
    assert [entry["step"] for entry in outcome.history] == [4, 8, 12]


class Tokens(UserDict[str, Any]):
    """A batch as tokenizers give it: a mapping that has its entries as attributes, too."""

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


def gathered(rows: list[Any]) -> Tokens:
    inputs, targets = (torch.stack(column) for column in zip(*rows, strict=True))
    return Tokens(inputs={"left": inputs[:, :3], "rest": [inputs[:, 3:]]}, targets=targets)


def joined(model: nn.Module, batch: Tokens) -> tuple[Tensor, Tensor]:
    return model(torch.cat([batch.inputs["left"], *batch.inputs["rest"]], dim=1)), batch.targets


def test_nested_batches_of_a_kind_of_their_own_come_through_workers_whole() -> None:
    task = worked(forward=joined)
    for name in ("train_loader", "validation_loader"):
        dataset = getattr(task, name).dataset
        loader = DataLoader(dataset, batch_size=16, num_workers=1, collate_fn=gathered)
        setattr(task, name, loader)
    outcome, _ = run(task, epochs=10)
    assert any(move["to_stage"] == "BLENDING" for move in outcome.transitions)


def test_a_batch_that_moves_to_a_device_stays_of_its_kind() -> None:
    batch = Tokens(inputs=torch.zeros(2), words=["a", "b"])
    moved = move(batch, torch.device("meta"))
    assert moved.inputs.device.type == "meta"
    assert moved.words == ["a", "b"]
    assert batch.inputs.device.type == "cpu"
