"""What must be the same in every process that trains a model together, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.sites import Site

SAME_RUN = "Every process has to build the same model, the same optimizer and the same Grower"


def run_facts(
    model: nn.Module, optimizer: Optimizer, options: GrowthOptions, **others: object
) -> dict[str, str]:
    """Return the shapes of a model and its optimizer, the growth options, and `others`."""
    facts = {name: repr(value) for name, value in others.items()}
    for option in fields(options):
        facts[f"growth.{option.name}"] = repr(getattr(options, option.name))
    for name, parameter in model.named_parameters():
        trained = "trained" if parameter.requires_grad else "not trained"
        facts[f"model.{name}"] = f"{_shape(parameter)}, {trained}"
    for name, buffer in model.named_buffers():
        facts[f"model.{name}"] = _shape(buffer)
    facts["optimizer"] = type(optimizer).__name__
    for number, group in enumerate(optimizer.param_groups):
        facts |= {f"optimizer.{number}.{name}": told for name, told in _settings(group).items()}
    return facts


def site_facts(sites: Sequence[Site]) -> dict[str, str]:
    """Return where seeds may grow."""
    return {f"site {site.name}": f"{site.path}: {site.interface.key} {site.form}" for site in sites}


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _settings(group: Mapping[str, Any]) -> dict[str, str]:
    told = {name: repr(value) for name, value in group.items() if name != "params"}
    return {"parameters": repr(len(group["params"])), **told}
