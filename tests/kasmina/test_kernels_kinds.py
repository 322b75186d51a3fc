"""Kernels whose names promise more than a shape keep what they promise."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import Kernel, build_kernel
from esper_async.kasmina.kernels.dynamic import DeformableConv, DynamicConv
from esper_async.kasmina.kernels.graph import GraphAttention

MAP = SiteInterface("spatial", (4, 6, 8))
WORDS = SiteInterface("sequence", (12, 6))
FLAT = SiteInterface("feature", (6,))


def awake(blueprint_id: str, site: SiteInterface) -> Kernel:
    """A kernel whose last layer is silent no more."""
    kernel = build_kernel(blueprint_id, site, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in kernel.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return kernel


def reaches(kernel: Kernel, h: Tensor, place: tuple[int, ...]) -> Tensor:
    """Which values of the activation the answer at `place` depends on, by their gradients."""
    h = h.clone().requires_grad_()
    kernel(h)[place].sum().backward()
    assert h.grad is not None
    return h.grad != 0


def test_light_dropout_drops_about_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    kernel = build_kernel("BP004", MAP, {"percent": 10}, seed=0)
    h = torch.ones(200, *MAP.shape)
    answer = kernel(h)
    assert (answer == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert answer.mean().item() == pytest.approx(1.0, abs=0.02)
    assert not torch.equal(answer, kernel(h))
    assert torch.equal(kernel.eval()(h), h)


def test_batch_norm_normalises_by_the_batch_and_in_evaluation_by_what_it_has_seen() -> None:
    kernel, h = awake("BP006", FLAT), 3.0 + 2.0 * torch.randn(64, 6)
    with torch.no_grad():
        kernel.norm.weight.fill_(1.0)  # type: ignore[union-attr, operator]
        kernel.norm.bias.zero_()  # type: ignore[union-attr, operator]
    answer = kernel(h)
    assert torch.allclose(answer.mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(answer.var(0, correction=0), torch.ones(6), atol=1e-3)
    for _ in range(100):
        kernel(h)
    kernel.eval()
    assert torch.allclose(kernel(h[:1]), answer[:1], atol=5e-2)


def test_batch_norm_takes_a_batch_of_one() -> None:
    kernel = awake("BP006", FLAT)
    before = {name: buffer.clone() for name, buffer in kernel.named_buffers()}
    assert kernel(torch.randn(1, 6)).isfinite().all()
    assert all(torch.equal(buffer, before[name]) for name, buffer in kernel.named_buffers())


@pytest.mark.parametrize("blueprint_id", ["BP019", "BP026", "BP030"])
def test_one_place_of_a_map_hears_from_the_farthest(blueprint_id: str) -> None:
    kernel, h = awake(blueprint_id, MAP), torch.randn(1, *MAP.shape)
    assert reaches(kernel, h, (0, slice(None), 0, 0))[0, :, 5, 7].any()


@pytest.mark.parametrize("blueprint_id", ["BP019", "BP026", "BP030"])
def test_the_last_position_of_a_sequence_hears_from_the_first(blueprint_id: str) -> None:
    kernel, h = awake(blueprint_id, WORDS), torch.randn(1, *WORDS.shape)
    assert reaches(kernel, h, (0, -1))[0, 0].any()


def test_a_pyramid_reaches_farther_than_its_convolutions_on_one_scale_could() -> None:
    line = SiteInterface("spatial", (2, 1, 40))
    kernel, h = awake("BP027", line), torch.randn(1, 2, 1, 40)
    kernel.norm = torch.nn.Identity()  # which sees the whole sample
    seen = reaches(kernel, h, (0, slice(None), 0, 20))[0].any(0)[0].nonzero()
    assert seen.max() - seen.min() > 2 * 3  # three convolutions of three taps: 7 places


@pytest.mark.parametrize("site", [MAP, WORDS], ids=lambda site: site.kind)
def test_the_taps_of_a_dynamic_convolution_follow_the_activation(site: SiteInterface) -> None:
    kernel, h = awake("BP025", site), torch.randn(1, *site.shape)
    assert isinstance(kernel, DynamicConv)
    one, other = kernel.weigh(kernel.norm(h)), kernel.weigh(kernel.norm(h.flip(-1)))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_dynamic_convolution_whose_taps_weigh_the_same_takes_means(kernel_size: int) -> None:
    kernel = build_kernel("BP025", WORDS, {"kernel_size": kernel_size}, seed=0)
    assert isinstance(kernel, DynamicConv)
    entered = torch.randn(2, 12, 32)
    even = torch.zeros(2, 12, 4 * kernel_size)
    past = F.pad(entered, (0, 0, kernel_size - 1, 0)).unfold(1, kernel_size, 1)
    assert torch.allclose(kernel._along(entered, even), past.mean(-1), atol=1e-6)


def test_without_an_edge_nothing_passes_between_two_positions() -> None:
    kernel, h = awake("BP030", WORDS), torch.randn(1, *WORDS.shape)
    assert isinstance(kernel, GraphAttention)
    assert reaches(kernel, h, (0, 9))[0, 2].any()
    with torch.no_grad():
        kernel.out_of[:, 2] = 0.0
        kernel.out_of[:, 2, 0] = -1e6
        kernel.into[:, 9, 0] = 1.0
    assert not reaches(kernel, h, (0, 9))[0, 2].any()
    assert reaches(kernel, h, (0, 9))[0, 3].any()


def unmoved(site: SiteInterface) -> DeformableConv:
    kernel = awake("BP033", site)
    assert isinstance(kernel, DeformableConv)
    with torch.no_grad():
        for parameter in kernel.move.parameters():
            parameter.zero_()
    return kernel


@pytest.mark.parametrize("shape", [(4, 6, 8), (4, 1, 9), (4, 9, 1)])
def test_a_deformable_convolution_that_moves_nothing_is_a_convolution(
    shape: tuple[int, int, int],
) -> None:
    kernel, h = unmoved(SiteInterface("spatial", shape)), torch.randn(2, *shape)
    weight = kernel.mix.weight.unflatten(1, (-1, kernel.taps))[..., 0, 0]  # type: ignore[operator]
    plain = F.conv2d(
        kernel.enter(kernel.norm(h)),
        weight.unflatten(2, kernel.extents),
        kernel.mix.bias,  # type: ignore[arg-type]
        padding=(kernel.extents[0] // 2, kernel.extents[1] // 2),
    )
    assert torch.allclose(kernel(h), kernel.leave(F.gelu(plain)), atol=1e-5)


def test_taps_moved_one_place_to_the_right_look_there() -> None:
    kernel, h = unmoved(MAP), torch.randn(1, *MAP.shape)
    with torch.no_grad():
        kernel.move.bias.unflatten(0, (2, -1))[1].fill_(1.0)  # type: ignore[operator, union-attr]
    kernel.norm = torch.nn.Identity()
    answer = kernel(h)
    shifted = F.pad(h, (0, 1))[..., 1:]
    with torch.no_grad():
        kernel.move.bias.zero_()  # type: ignore[operator, union-attr]
    inner = slice(1, -2)  # the borders differ: there a tap lies outside in one of the two
    assert torch.allclose(answer[..., inner], kernel(shifted)[..., inner], atol=1e-5)
