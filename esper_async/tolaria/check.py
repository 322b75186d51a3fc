"""The dry run of a run file: everything that could go wrong is tried, and told at once.

`python -P -m esper_async.tolaria.check RUN_FILE [--json]`; exit code 0 when it can be trained.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina.call import (
    BatchError,
    Call,
    cloned_buffers,
    contents,
    default_forward,
    describe,
    detached_parameters,
    first_batch_size,
)
from esper_async.kasmina.compiling.choice import CompileError
from esper_async.kasmina.distillation import TeacherRefusedError, check_answers
from esper_async.kasmina.evaluation import SampleLoss
from esper_async.kasmina.kernels import blueprints_for, build_kernel
from esper_async.kasmina.kernels.graft import Graft, GraftHook, fitting_blend
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.sites import NoSiteError, Site, find_sites
from esper_async.kasmina.user_code import UserCodeError, blaming
from esper_async.runtime.import_path import append_working_directory
from esper_async.tolaria import global_random
from esper_async.tolaria.compile_plan import compile_plan
from esper_async.tolaria.options import RunOptions, options_from_run
from esper_async.tolaria.rehearsal import problem_of, score_batches
from esper_async.tolaria.run_file import RunFile, load_run
from esper_async.tolaria.schedule import make_scheduler
from esper_async.tolaria.second_pass import check_passes, two_passes
from esper_async.tolaria.task import Task, TaskError
from esper_async.tolaria.task_source import load_task
from esper_async.tolaria.training import choose_device, count_boundaries, count_steps


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
    options = options_from_run(run_file.model_dump())
    boundaries = _check_plan(task, options, problems)
    passes = check_passes(task, options, document)
    failed: set[str] = set()
    for batch in passes:
        failed = _check_step(task, batch, problems, document["notes"])
    _check_splits(task, boundaries + (options.policy != "static"), failed, problems)
    if passes and not problems:
        sites = _check_sites(task, run_file, passes[0], document)
        try:
            document["compiled"] = compile_plan(task, options, sites, passes[0])
        except CompileError as error:
            problems.append(str(error))
    return document


def _describe_model(task: Task) -> dict[str, Any]:
    return {
        "class": type(task.model).__name__,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
    }


def _check_plan(task: Task, options: RunOptions, problems: list[str]) -> int:
    """Build what a run builds before its first step; return how many boundaries it has."""
    boundaries = options.epochs
    try:
        choose_device(options.device)
    except TaskError as error:
        problems.append(str(error))
    try:
        boundaries = count_boundaries(task, options)
    except TaskError as error:
        problems.append(str(error))
    try:
        optimizer, steps = task.make_optimizer(task.model.parameters()), count_steps(task, options)
        make_scheduler(task, optimizer, boundaries=boundaries, steps=steps)
    except TaskError as error:
        problems.append(str(error))
    return boundaries


def _check_step(task: Task, batch: Any, problems: list[str], notes: list[str]) -> set[str]:
    """Push one batch through the model and the loss, forward and backward, on copies.

    Returns the fields of the task that failed.
    """
    parameters = {
        name: p.detach().requires_grad_(p.requires_grad)
        for name, p in task.model.named_parameters()
    }
    learning = [tensor for tensor in parameters.values() if tensor.requires_grad]
    task.model.train()
    try:
        first_batch_size(batch)
        tensors = {**parameters, **cloned_buffers(task.model)}
        pair = Call(task.model, task.forward or default_forward).with_tensors(tensors, batch)
        with blaming("loss"):
            loss = task.loss(*pair)
        if task.teacher is not None:
            check_answers(task.teacher, task.forward or default_forward, batch, pair[0])
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            problems.append(f"Task.loss returned {describe(loss)}; it should be a scalar tensor")
            return {"loss"}
        with blaming("loss.backward"):
            gradients = torch.autograd.grad(loss, learning, allow_unused=True)
    except BatchError as error:
        problems.append(f"Task.train_loader: {error}")
        return set()
    except TeacherRefusedError as error:
        problems.append(f"Task.teacher: {error}")
        return {"teacher"}
    except UserCodeError as error:
        problems.append(str(problem_of(error, f" on the first training batch {contents(batch)}")))
        return {error.what}
    if not bool(torch.isfinite(loss)):
        problems.append(f"Task.loss of the first batch is {float(loss)}; look at the data")
    unused = sum(gradient is None for gradient in gradients)
    if unused:
        notes.append(f"{unused} parameters get no gradient from the loss")
    if SampleLoss(task.loss).paired_by == "batch":
        notes.append(
            'the loss takes no reduction="none": measurements are paired by batch, not by sample'
        )
    return set()


def _check_splits(task: Task, passes: int, failed: set[str], problems: list[str]) -> None:
    """Score the first batches of the splits; the validation loader must begin anew."""
    for split in ("validation", "test"):
        name = f"{split}_loader"
        if getattr(task, name) is None:
            continue
        needed = passes if split == "validation" else 1
        found = two_passes(task, name, 1, needed=needed, problems=problems)
        if found is not None:
            problems += map(str, score_batches(task, split, found[0], known=failed))


def _check_sites(task: Task, run_file: RunFile, batch: Any, document: dict[str, Any]) -> list[Site]:
    """Try every candidate at every site; return the sites of a run that grows."""
    named = run_file.growth.sites
    wanted = task.sites if named == "auto" else named
    try:
        sites = find_sites(task.model, task.forward or default_forward, batch, wanted)
    except NoSiteError as error:
        if run_file.growth.policy != "static":
            document["problems"].append(str(error))
        return []
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
    return [] if run_file.growth.policy == "static" else sites


def _runs(task: Task, site: Site, blueprint: str, batch: Any, document: dict[str, Any]) -> bool:
    """Push the batch through the network with a candidate fully on."""
    kernel = build_kernel(blueprint, site.interface, seed=0)
    graft = Graft(kernel, form=site.form, mode=fitting_blend(kernel.output))
    graft.set_alpha(1.0)
    handle = task.model.get_submodule(site.path).register_forward_hook(GraftHook(graft))
    tensors: Mapping[str, Tensor] = {
        **detached_parameters(task.model),
        **cloned_buffers(task.model),
    }
    try:
        with torch.no_grad(), RandomStream(fresh_stream("check")).active():
            output, _ = Call(task.model, task.forward or default_forward).with_tensors(
                dict(tensors), batch
            )
    except RuntimeError as error:
        document["notes"].append(f"{blueprint} does not run at {site.name}: {error}")
        return False
    finally:
        handle.remove()
    if not bool(torch.isfinite(output).all()):
        document["notes"].append(f"{blueprint} at {site.name} gives values that are not finite")
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Check the run file named on the command line and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.tolaria.check")
    parser.add_argument("run_file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args(arguments)
    append_working_directory()
    document = check_run(load_run(str(chosen.run_file)))
    if chosen.json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        for name, value in document.items():
            sys.stdout.write(f"{name}: {value}\n")
    return 1 if document["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
