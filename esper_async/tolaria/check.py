"""The dry run of a run file: everything that could go wrong is tried, and told at once.

`python -m esper_async.tolaria.check RUN_FILE [--json]`; exit code 0 when it can be trained.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina.call import (
    BatchError,
    Call,
    Forward,
    cloned_buffers,
    default_forward,
    describe,
    detached_parameters,
)
from esper_async.kasmina.evaluation import SampleLoss
from esper_async.kasmina.kernels import blueprints_for, build_kernel
from esper_async.kasmina.kernels.graft import Graft, GraftHook
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.sites import NoSiteError, Site, find_sites
from esper_async.tolaria import global_random
from esper_async.tolaria.run_file import RunFile, load_run
from esper_async.tolaria.task import Task, TaskError
from esper_async.tolaria.task_source import load_task

_COMPARED_BATCHES = 50


def check_run(run_file: RunFile) -> dict[str, Any]:
    """Try a run file out; `problems` is empty when it can be trained."""
    problems: list[str] = []
    document: dict[str, Any] = {"name": run_file.run.name, "problems": problems, "notes": []}
    global_random.seed_everything(run_file.run.seed)
    try:
        task = load_task(run_file.run.task, run_file.run.options, seed=run_file.run.seed)
    except TaskError as error:
        problems.append(str(error))
        return document
    document["model"] = _describe_model(task)
    batch = _first(task.train_loader, "train_loader", problems)
    _first(task.validation_loader, "validation_loader", problems)
    if batch is None:
        return document
    _check_step(task, batch, problems, document["notes"])
    if not problems:
        _check_sites(task, run_file, batch, document)
        _check_resume(task, document)
    return document


def _describe_model(task: Task) -> dict[str, Any]:
    return {
        "class": type(task.model).__name__,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
    }


def _first(loader: Iterable[Any], name: str, problems: list[str]) -> Any:
    try:
        batch = next(iter(loader), None)
    except Exception as error:  # noqa: BLE001 - the user's code; it becomes a problem that is told
        problems.append(f"Task.{name} raised {type(error).__name__}: {error}")
        return None
    if batch is None:
        problems.append(f"Task.{name} yields no batch; it must yield at least one")
    return batch


def _forward_of(task: Task) -> Forward:
    return task.forward or default_forward


def _check_step(task: Task, batch: Any, problems: list[str], notes: list[str]) -> None:
    """Push one batch through the model and the loss, forward and backward, on copies."""
    parameters = {
        name: p.detach().requires_grad_(p.requires_grad)
        for name, p in task.model.named_parameters()
    }
    task.model.train()
    try:
        tensors = {**parameters, **cloned_buffers(task.model)}
        output, target = Call(task.model, _forward_of(task)).with_tensors(tensors, batch)
        loss = task.loss(output, target)
        learning = [tensor for tensor in parameters.values() if tensor.requires_grad]
        gradients = torch.autograd.grad(loss, learning, allow_unused=True)
    except BatchError as error:
        problems.append(str(error))
        return
    except Exception as error:  # noqa: BLE001 - the user's code; it becomes a problem that is told
        problems.append(
            f"one batch ({describe(batch)}) through model and loss raised "
            f"{type(error).__name__}: {error}"
        )
        return
    if not bool(torch.isfinite(loss)):
        problems.append(f"the loss of the first batch is {float(loss)}; look at the data")
    unused = sum(gradient is None for gradient in gradients)
    if unused:
        notes.append(f"{unused} parameters get no gradient from the loss")
    if SampleLoss(task.loss).paired_by == "batch":
        notes.append(
            'the loss takes no reduction="none": measurements are paired by batch, not by sample'
        )


def _check_sites(task: Task, run_file: RunFile, batch: Any, document: dict[str, Any]) -> None:
    named = run_file.growth.sites
    wanted = task.sites if named == "auto" else named
    try:
        sites = find_sites(task.model, _forward_of(task), batch, wanted)
    except NoSiteError as error:
        if run_file.growth.policy != "static":
            document["problems"].append(str(error))
        return
    rows = []
    for site in sites:
        fitting = [
            blueprint.id
            for blueprint in blueprints_for(site.interface)
            if blueprint.tier in run_file.growth.tiers
        ]
        failed = [name for name in fitting if not _runs(task, site, name, batch, document)]
        rows.append(
            {
                "site": site.name,
                "kind": site.interface.kind,
                "shape": list(site.interface.shape),
                "dtype": site.interface.dtype,
                "blueprints": [name for name in fitting if name not in failed],
            }
        )
    document["sites"] = rows


def _runs(task: Task, site: Site, blueprint: str, batch: Any, document: dict[str, Any]) -> bool:
    """Push the batch through the network with a candidate fully on."""
    kernel = build_kernel(blueprint, site.interface, seed=0)
    mode: Any = "residual" if kernel.output == "change" else "convex"
    graft = Graft(kernel, form=site.form, mode=mode)
    graft.set_alpha(1.0)
    handle = task.model.get_submodule(site.path).register_forward_hook(GraftHook(graft))
    tensors: Mapping[str, Tensor] = {
        **detached_parameters(task.model),
        **cloned_buffers(task.model),
    }
    try:
        with torch.no_grad(), RandomStream(fresh_stream("check")).active():
            output, _ = Call(task.model, _forward_of(task)).with_tensors(dict(tensors), batch)
    except RuntimeError as error:
        document["notes"].append(f"{blueprint} does not run at {site.name}: {error}")
        return False
    finally:
        handle.remove()
    if not bool(torch.isfinite(output).all()):
        document["notes"].append(f"{blueprint} at {site.name} gives values that are not finite")
        return False
    return True


def _check_resume(task: Task, document: dict[str, Any]) -> None:
    """Iterate the training loader twice from the same random states and compare."""
    if hasattr(task.train_loader, "state_dict") and hasattr(task.train_loader, "load_state_dict"):
        document["resumable"] = "bitwise"
        document["resumable_why"] = "the training loader saves its own position"
        return
    begin = global_random.capture()
    first = _batches(task.train_loader)
    global_random.restore(begin)
    second = _batches(task.train_loader)
    same = len(first) == len(second) and all(map(_equal, first, second))
    document["resumable"] = "bitwise" if same else "approximate"
    document["resumable_why"] = (
        "the training loader yields the same batches from the same random states"
        if same
        else "the training loader yields other batches the second time, from the same random states"
    )


def _batches(loader: Iterable[Any]) -> list[Any]:
    return [batch for batch, _ in zip(loader, range(_COMPARED_BATCHES), strict=False)]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def main(arguments: list[str] | None = None) -> int:
    """Check the run file named on the command line and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.tolaria.check")
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args(arguments)
    document = check_run(load_run(str(chosen.run_file)))
    if chosen.json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        for name, value in document.items():
            sys.stdout.write(f"{name}: {value}\n")
    return 1 if document["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
