"""A grown network as a file: what was planted where, and the weights of all of it."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper_async.kasmina.compiling.taken_over import is_wrapped
from esper_async.kasmina.kernels import build_kernel
from esper_async.kasmina.kernels.graft import Graft, attach
from esper_async.runtime.files import write_atomically
from esper_async.runtime.tensor_file import TensorFileError, read_tensors
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.site_state import restore_site, site_state

FORMAT = 1


class GrownModelError(ValueError):
    """A file is no grown network, or not one of this host; the message says which."""


def save_grown(grower: Grower, path: str | Path) -> None:
    """Write the grower's network with its kept seeds to `path`, atomically.

    `load_grown` puts it into a fresh host of the same architecture. Seeds that are not kept have no
    place in it: call `Grower.finish` first.

    Raises:
        GrownModelError: a seed is still on trial.
        OSError: the disk refused.
    """
    executor = grower.executor
    if executor is not None and executor.trial is not None:
        raise GrownModelError(
            f"seed {executor.trial.seed.id} is still on trial; call finish() before saving"
        )
    document = {
        "format": FORMAT,
        "seeds": [
            {
                "attribute": seed.attribute,
                "site": site_state(seed.site),
                "blueprint": seed.candidate.blueprint,
                "parameters": dict(seed.candidate.parameters),
                "mode": seed.graft.mode,
            }
            for seed in ([] if executor is None else executor.kept)
        ],
        "weights": grower.model.state_dict(),
    }
    content = io.BytesIO()
    torch.save(document, content)
    write_atomically(Path(path), content.getvalue())


def load_grown(model: nn.Module, path: str | Path) -> nn.Module:
    """Plant the seeds that `path` holds into a fresh host, load all weights, and return the host.

    The file is read without running any code of its own. `model` stays as it was on an error.

    Raises:
        GrownModelError: the file is no grown network, or the host is of another architecture or
            what `torch.compile` returned.
        OSError: the file cannot be read.
    """
    if is_wrapped(model):
        raise GrownModelError(
            "the model is what torch.compile(module) returned, which would not see what is planted "
            "in the module: give load_grown the module, and compile it afterwards"
        )
    document = _read(Path(path))
    planted = _seeds(document, model, path)
    expected = _shapes(model.state_dict())
    for path_in_model, attribute, graft in planted:
        for name, tensor in graft.state_dict().items():
            expected[".".join(filter(None, (path_in_model, attribute, name)))] = tensor.shape
    found = _shapes(document["weights"])
    if found != expected:
        odd = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
        raise GrownModelError(
            f"{path}: not the architecture of this model; the first tensor that differs is "
            f"{odd[0]!r} of {len(odd)}"
        )
    device = next(model.parameters()).device
    for path_in_model, attribute, graft in planted:
        attach(model.get_submodule(path_in_model), graft.to(device), attribute)
    model.load_state_dict(document["weights"])
    return model


def _seeds(
    document: dict[str, Any], model: nn.Module, path: str | Path
) -> list[tuple[str, str, Graft]]:
    """Build each seed of a file anew; return it with the place and the name it gets."""
    planted: list[tuple[str, str, Graft]] = []
    try:
        for told in document["seeds"]:
            site = restore_site(told["site"])
            if site.path not in dict(model.named_modules()):
                raise GrownModelError(f"{path}: this model has no {site.path!r} to plant at")
            kernel = build_kernel(told["blueprint"], site.interface, told["parameters"], seed=0)
            channels = site.interface.channels
            graft = Graft(kernel, form=site.form, mode=told["mode"], channels=channels)
            planted.append((site.path, str(told["attribute"]), graft))
        return planted
    except GrownModelError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise GrownModelError(f"{path} is damaged: its seeds cannot be read: {error!r}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = read_tensors(path)
    except TensorFileError as error:
        raise GrownModelError(f"{path} is no grown network: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise GrownModelError(f"{path} is no grown network of format {FORMAT}")
    weights = document.get("weights")
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise GrownModelError(f"{path} is damaged: it has no weights")
    return document


def _shapes(state: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
