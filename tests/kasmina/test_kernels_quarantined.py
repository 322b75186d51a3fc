"""Planted and adversarial kernels do what they say, at every kind of site."""

import pytest
import torch

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import build_kernel
from tests.kasmina.kernel_sites import SITES, planting_id

each_site = pytest.mark.parametrize("site", SITES, ids=planting_id)


@each_site
def test_trainable_noise_is_fresh_in_every_forward_and_can_be_trained(site: SiteInterface) -> None:
    kernel = build_kernel("PL001", site, seed=0, drill=True)
    h = torch.zeros(8, *site.shape)
    first, second = kernel(h), kernel(h)
    assert not torch.equal(first, second)
    first.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in kernel.parameters())


@each_site
def test_fixed_noise_is_the_same_whatever_comes_in(site: SiteInterface) -> None:
    kernel = build_kernel("PL002", site, seed=0, drill=True)
    noise = kernel(torch.randn(2, *site.shape))
    assert torch.equal(noise, kernel(torch.zeros(2, *site.shape)))
    assert noise.std() > 0.1
    assert torch.equal(kernel.state_dict()["noise"], noise[0])


@each_site
def test_a_rotation_keeps_every_norm_and_changes_the_direction(site: SiteInterface) -> None:
    kernel = build_kernel("PL003", site, seed=0, drill=True)
    axis = -1 if site.kind == "sequence" else 1
    h = torch.randn(4, *site.shape)
    turned = kernel(h)
    assert torch.allclose(turned.norm(dim=axis), h.norm(dim=axis), atol=1e-4)
    assert (turned - h).norm() > 0.3 * h.norm()
    assert torch.allclose(
        torch.linalg.det(kernel.state_dict()["rotation"]), torch.tensor(1.0), atol=1e-4
    )


@each_site
@pytest.mark.parametrize(("blueprint_id", "factor"), [("BP043", 1e6), ("BP044", 1e-9)])
def test_gradients_explode_and_vanish_behind_an_identity(
    site: SiteInterface, blueprint_id: str, factor: float
) -> None:
    kernel = build_kernel(blueprint_id, site, seed=0, drill=True)
    h = torch.randn(2, *site.shape, requires_grad=True)
    answer = kernel(h)
    assert torch.equal(answer, h)
    answer.sum().backward()
    assert h.grad is not None
    assert torch.allclose(h.grad, torch.full_like(h, factor))


def test_nan_injection_behaves_for_as_long_as_it_is_told_to() -> None:
    kernel = build_kernel("BP045", SITES[0], {"after": 2}, seed=0, drill=True)
    h = torch.randn(2, *SITES[0].shape)
    assert [bool(kernel(h).isfinite().all()) for _ in range(4)] == [True, True, False, False]


@each_site
def test_adversarial_noise_always_pushes_against_the_sign(site: SiteInterface) -> None:
    h = torch.randn(2, *site.shape)
    push = build_kernel("BP050", site, seed=0, drill=True)(h)
    assert (push * h).max() <= 0
    assert push.abs().mean() > 0.3
