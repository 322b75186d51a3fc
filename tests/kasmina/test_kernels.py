"""Every blueprint's kernel, at every kind of site it claims, at three shapes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import REGISTRY, Kernel, blueprints_for, build_kernel
from tests.kasmina.kernel_sites import PLANTINGS, SITES, planting_id

each_planting = pytest.mark.parametrize(("blueprint_id", "site"), PLANTINGS, ids=planting_id)


def activations(site: SiteInterface, count: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *site.shape, generator=generator).to(getattr(torch, site.dtype))


def applied(kernel: Kernel, h: Tensor) -> Tensor:
    """The activation with the kernel's full part in it."""
    return h + kernel(h) if kernel.output == "change" else kernel(h)


def drawn(kernel: nn.Module, h: Tensor) -> Tensor:
    """A kernel's answer with its random stream at its beginning."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kernel(h)  # type: ignore[no-any-return]


def train(kernel: Kernel, site: SiteInterface, steps: int) -> set[str]:
    """Train towards a fixed target; return the tensors that had a non-zero, finite gradient."""
    h, target = activations(site), activations(site, seed=1)
    served: set[str] = set()
    for _ in range(steps if list(kernel.parameters()) else 0):
        kernel.zero_grad()
        (applied(kernel, h) - target).square().mean().backward()
        for name, parameter in kernel.named_parameters():
            if parameter.grad is not None and parameter.grad.any():
                assert parameter.grad.isfinite().all(), name
                served.add(name)
        with torch.no_grad():
            for parameter in kernel.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad.sign()
    return served


def test_every_production_and_experimental_blueprint_is_at_work() -> None:
    assert sorted(REGISTRY) == [f"BP{number:03}" for number in range(1, 43)]


@pytest.mark.parametrize("kind", ["spatial", "sequence", "feature"])
def test_every_kind_of_site_has_a_choice_of_kernels(kind: str) -> None:
    site = next(site for site in SITES if site.kind == kind)
    assert len(blueprints_for(site)) >= 12


@each_planting
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_kernel_keeps_shape_and_dtype(blueprint_id: str, site: SiteInterface, dtype: str) -> None:
    site = SiteInterface(site.kind, site.shape, dtype)
    kernel = build_kernel(blueprint_id, site, seed=0)
    for count in (1, 4):
        h = activations(site, count)
        assert kernel(h).shape == h.shape
        assert kernel(h).dtype == h.dtype


@each_planting
def test_a_change_starts_at_zero_and_a_replacement_near_the_activation(
    blueprint_id: str, site: SiteInterface
) -> None:
    kernel, h = build_kernel(blueprint_id, site, seed=0), activations(site)
    if kernel.blueprint.start_exemption:
        kernel.eval()
    distance = (applied(kernel, h) - h).norm() / h.norm()
    assert distance <= (0.0 if kernel.output == "change" else 0.1)


@each_planting
def test_every_tensor_has_a_gradient_within_twenty_steps(
    blueprint_id: str, site: SiteInterface
) -> None:
    kernel = build_kernel(blueprint_id, site, seed=0)
    names = {name for name, _ in kernel.named_parameters()}
    if not names:
        assert kernel.blueprint.gradient_exemption
        return
    assert train(kernel, site, 20) == names


@pytest.mark.parametrize(
    ("blueprint_id", "site"),
    [(i, site) for i, site in PLANTINGS if site in SITES[::3] and i != "BP001"],
    ids=planting_id,
)
def test_a_kernel_can_lower_a_loss(blueprint_id: str, site: SiteInterface) -> None:
    kernel = build_kernel(blueprint_id, site, seed=0)
    h, target = activations(site), activations(site, seed=1)
    before = (applied(kernel, h) - target).square().mean()
    train(kernel, site, 20)
    assert (applied(kernel, h) - target).square().mean() < before


@each_planting
def test_a_trained_kernel_survives_a_copy_and_a_state_dict(
    blueprint_id: str, site: SiteInterface
) -> None:
    kernel, h = build_kernel(blueprint_id, site, seed=0), activations(site)
    train(kernel, site, 3)
    other = build_kernel(blueprint_id, site, seed=1)
    other.load_state_dict(kernel.state_dict(), strict=True)
    assert torch.equal(drawn(other, h), drawn(kernel, h))
    assert torch.equal(drawn(copy.deepcopy(kernel), h), drawn(kernel, h))


@pytest.mark.parametrize(
    ("blueprint_id", "site"),
    [(i, site) for i, site in PLANTINGS if site.kind == "sequence"],
    ids=planting_id,
)
def test_no_position_of_a_sequence_sees_what_comes_after_it(
    blueprint_id: str, site: SiteInterface
) -> None:
    kernel, h = build_kernel(blueprint_id, site, seed=0), activations(site)
    train(kernel, site, 3)
    changed = h.clone()
    changed[:, -1] += 5.0
    assert torch.allclose(drawn(kernel, h)[:, :-1], drawn(kernel, changed)[:, :-1], atol=1e-5)


@pytest.mark.parametrize(
    "blueprint_id",
    [
        "BP009", "BP015", "BP016", "BP019", "BP020", "BP023", "BP024", "BP025", "BP026", "BP030",
        "BP031", "BP032", "BP034", "BP036", "BP037", "BP038", "BP039", "BP040", "BP041", "BP042",
    ],
)  # fmt: skip
def test_a_sequence_may_be_shorter_than_its_site(blueprint_id: str) -> None:
    site = SiteInterface("sequence", (16, 8))
    kernel, h = build_kernel(blueprint_id, site, seed=0), activations(site)
    train(kernel, site, 3)
    assert torch.allclose(kernel(h[:, :5]), kernel(h)[:, :5], atol=1e-5)


@pytest.mark.parametrize(
    "blueprint_id",
    ["BP009", "BP010", "BP013", "BP024", "BP025", "BP027", "BP028", "BP031", "BP032", "BP033"],
)
def test_on_a_line_no_weight_lies_for_ever_in_padding(blueprint_id: str) -> None:
    site = SiteInterface("spatial", (4, 1, 5))
    kernel = build_kernel(blueprint_id, site, seed=0)
    for name, parameter in kernel.named_parameters():
        if parameter.ndim == 4:
            assert parameter.shape[2] == 1, name
            assert parameter.shape[3] <= 9, name


@pytest.mark.parametrize(
    "blueprint_id",
    [
        "BP009", "BP010", "BP019", "BP020", "BP024", "BP025", "BP026", "BP027", "BP028", "BP030",
        "BP031", "BP032", "BP033",
    ],
)  # fmt: skip
def test_a_kernel_on_a_line_reaches_its_neighbours(blueprint_id: str) -> None:
    site = SiteInterface("spatial", (4, 1, 12))
    kernel, h = build_kernel(blueprint_id, site, seed=0), activations(site, 1)
    train(kernel, site, 3)
    h.requires_grad_()
    kernel(h)[0, :, 0, 6].sum().backward()
    assert h.grad is not None
    assert h.grad[0, :, 0, 5].any()


@pytest.mark.parametrize(
    ("blueprint_id", "site"),
    [
        ("BP009", SiteInterface("spatial", (8, 1, 40))),
        ("BP004", SiteInterface("spatial", (3, 5, 4))),
        ("BP006", SiteInterface("feature", (10,))),
        ("BP014", SiteInterface("feature", (10,))),
        ("BP016", SiteInterface("spatial", (16, 7, 7))),
        ("BP019", SiteInterface("sequence", (32, 64))),
        ("BP019", SiteInterface("spatial", (3, 5, 4))),
        ("BP023", SiteInterface("sequence", (32, 64))),
        ("BP024", SiteInterface("spatial", (8, 1, 40))),
        ("BP025", SiteInterface("sequence", (32, 64))),
        ("BP025", SiteInterface("spatial", (16, 7, 7))),
        ("BP026", SiteInterface("sequence", (32, 64))),
        ("BP026", SiteInterface("spatial", (3, 5, 4))),
        ("BP027", SiteInterface("spatial", (8, 1, 40))),
        ("BP028", SiteInterface("feature", (64,))),
        ("BP030", SiteInterface("sequence", (32, 64))),
        ("BP032", SiteInterface("spatial", (16, 7, 7))),
        ("BP033", SiteInterface("spatial", (16, 7, 7))),
        ("BP034", SiteInterface("spatial", (3, 5, 4))),
        ("BP036", SiteInterface("feature", (10,))),
        ("BP037", SiteInterface("sequence", (32, 64))),
        ("BP037", SiteInterface("spatial", (3, 5, 4))),
        ("BP038", SiteInterface("spatial", (16, 7, 7))),
        ("BP039", SiteInterface("feature", (64,))),
        ("BP040", SiteInterface("spatial", (8, 1, 40))),
        ("BP041", SiteInterface("spatial", (16, 7, 7))),
        ("BP041", SiteInterface("sequence", (32, 64))),
        ("BP042", SiteInterface("sequence", (32, 64))),
    ],
    ids=planting_id,
)
def test_a_kernel_exports_for_any_batch_size(blueprint_id: str, site: SiteInterface) -> None:
    kernel, h = build_kernel(blueprint_id, site, seed=0), activations(site, 4)
    train(kernel, site, 3)
    batch = torch.export.Dim("batch", min=2, max=512)
    program = torch.export.export(kernel, (h,), dynamic_shapes=({0: batch},))
    other = activations(site, 7)
    assert torch.allclose(drawn(program.module(), other), drawn(kernel, other), atol=1e-5)


def test_a_kernel_keeps_channels_last_activations_that_way() -> None:
    site = SiteInterface("spatial", (8, 6, 6), layout="channels_last")
    kernel = build_kernel("BP009", site, seed=0)
    h = activations(site).contiguous(memory_format=torch.channels_last)
    assert kernel(h).is_contiguous(memory_format=torch.channels_last)
