"""The final network of a run, from scratch: the kept kernels written down, and planted anew."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import build_kernel
from esper_async.kasmina.kernels.graft import Graft, attach
from esper_async.kasmina.seed import Seed


def kept_record(seed: Seed) -> dict[str, Any]:
    """Return all that is needed to plant a kept seed's kernel in a fresh host, as JSON values."""
    interface = seed.site.interface
    return {
        "site": seed.site.name,
        "path": seed.site.path,
        "attribute": seed.attribute,
        "form": seed.graft.form,
        "mode": seed.graft.mode,
        "kind": interface.kind,
        "shape": list(interface.shape),
        "dtype": interface.dtype,
        "layout": interface.layout,
        "blueprint": seed.candidate.blueprint,
        "parameters": dict(seed.candidate.parameters),
        "trained_parameters": seed.parameter_count,
    }


def replant(model: nn.Module, kept: Iterable[Mapping[str, Any]], *, seed: int) -> None:
    """Give a fresh host these kernels, newly initialised from `seed` and fully on."""
    for number, record in enumerate(kept, start=1):
        interface = SiteInterface(
            record["kind"], tuple(record["shape"]), record["dtype"], record["layout"]
        )
        kernel = build_kernel(
            record["blueprint"], interface, record["parameters"], seed=seed * 1000 + 900 + number
        )
        graft = Graft(kernel, form=record["form"], mode=record["mode"], channels=interface.channels)
        graft.set_alpha(1.0)
        attach(model.get_submodule(record["path"]), graft, record["attribute"])
