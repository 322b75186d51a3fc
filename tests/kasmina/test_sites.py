"""Sites: found by tracing a batch, or named; the host notices nothing of it."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.call import default_forward
from esper_async.kasmina.sites import NoSiteError, Site, find_sites
from tests.growth_hosts import differing, make_batches, make_host


def found(model: nn.Module, source: Any, named: Mapping[str, str] | None = None) -> list[Site]:
    return find_sites(model, default_forward, (source, None), named)


def shapes(sites: list[Site]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {site.name: (site.interface.kind, site.interface.shape) for site in sites}


def test_a_convolution_net_has_spatial_sites_behind_its_layers() -> None:
    sites = found(make_host("conv2d"), torch.randn(4, 2, 6, 6))

    assert shapes(sites) == {"stem.2": ("spatial", (8, 6, 6)), "body.2": ("spatial", (8, 6, 6))}
    assert [site.depth for site in sites] == [0, 1]


def test_a_one_dimensional_convolution_has_the_interface_of_a_flat_image() -> None:
    sites = found(make_host("conv1d"), torch.randn(4, 1, 12))

    assert shapes(sites) == {"stem.2": ("spatial", (8, 1, 12)), "pool": ("spatial", (8, 1, 6))}
    assert {site.form for site in sites} == {"ncl"}


def test_an_mlp_has_feature_sites() -> None:
    sites = found(make_host("mlp"), torch.randn(4, 6))

    assert all(site.interface.kind == "feature" and site.form == "nf" for site in sites)
    assert {site.interface.shape for site in sites} == {(16,), (8,)}


def test_a_transformer_has_sequence_sites() -> None:
    sites = found(make_host("attention"), torch.randint(0, 11, (4, 5)))

    assert shapes(sites)["encoder"] == ("sequence", (5, 8))
    assert shapes(sites)["embed"] == ("sequence", (5, 8))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, series: Tensor) -> Tensor:
        hidden, _ = self.cell(series)
        return self.head(hidden[:, -1])


def test_a_recurrent_layer_that_returns_a_tuple_is_a_sequence_site() -> None:
    assert shapes(found(Recurrent(), torch.randn(4, 7, 3))) == {"cell": ("sequence", (7, 8))}


class TimeFirst(nn.Module):
    """Layers in torch's default layout (T, N, D), between batches (N, T, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1)
        self.head = nn.Linear(8, 1)

    def forward(self, series: Tensor) -> Tensor:
        hidden, _ = self.cell(series.transpose(0, 1))
        return self.head(self.encoder(hidden)[-1])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_a_layer_with_time_first_is_no_site_though_a_sequence_be_as_long_as_the_batch() -> None:
    series = torch.randn(7, 7, 3)
    with pytest.raises(NoSiteError, match="no site"):
        found(TimeFirst(), series)
    for path in ("cell", "encoder", "encoder.layers.0.linear1"):
        with pytest.raises(NoSiteError, match="the batch first"):
            found(TimeFirst(), series, {"here": path})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embed(tokens))))


def test_tied_weights_hide_no_site_and_the_output_is_none() -> None:
    assert set(shapes(found(Tied(), torch.randint(0, 11, (4, 5))))) == {"embed", "mix"}


class Keyworded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 8)
        self.right = nn.Linear(2, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, *, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(a) + self.right(b)))


def test_a_dict_of_inputs_is_spread_over_keywords() -> None:
    inputs = {"a": torch.randn(4, 3), "b": torch.randn(4, 2)}

    assert set(shapes(found(Keyworded(), inputs))) == {"left", "right"}


class Shared(nn.Module):
    """One rectifier used at two places of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu(self.second(self.relu(self.first(images))))
        return self.head(hidden.mean(dim=(2, 3)))


def test_a_module_used_at_places_of_different_shapes_is_no_site() -> None:
    sites = found(Shared(), torch.randn(3, 1, 6, 6))

    assert shapes(sites) == {"first": ("spatial", (4, 6, 6)), "second": ("spatial", (8, 6, 6))}


def test_naming_a_module_used_at_places_of_different_shapes_is_an_error() -> None:
    with pytest.raises(NoSiteError, match="different shapes"):
        found(Shared(), torch.randn(3, 1, 6, 6), {"here": "relu"})


class Parametrised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(rows)))


def test_a_parametrised_weight_is_no_activation() -> None:
    assert set(shapes(found(Parametrised(), torch.randn(8, 8)))) == {"inner"}


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.relu(self.inner(rows)))}


def test_an_output_in_a_dict_is_not_taken_for_a_site() -> None:
    assert set(shapes(found(Labelled(), torch.randn(4, 6)))) == {"inner"}


def test_named_sites_are_the_only_ones_and_a_row_stands_for_its_last_module() -> None:
    (site,) = found(make_host("conv2d"), torch.randn(4, 2, 6, 6), {"early": "stem"})

    assert (site.name, site.path) == ("early", "stem.2")


def test_a_row_of_named_layers_stands_for_its_last_one() -> None:
    row = nn.Sequential(OrderedDict(up=nn.Linear(6, 8), rectify=nn.ReLU()))
    model = nn.Sequential(OrderedDict(row=row, head=nn.Linear(8, 3)))
    (site,) = find_sites(model, default_forward, make_batches("mlp")[0], {"here": "row"})
    assert site.path == "row.rectify"


class Listing(nn.Module):
    def forward(self, rows: Tensor) -> list[Tensor]:
        return [rows]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere", "no submodule 'nowhere'"),
        ("unused", "was not called"),
        ("flat", "returns"),
        ("listing", "returns no tensor"),
    ],
)
def test_a_named_site_that_is_none_is_refused_with_its_name(path: str, told: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 8)
            self.unused = nn.Linear(6, 8)
            self.flat = nn.Flatten(0)
            self.listing = Listing()
            self.head = nn.Linear(8, 2)

        def forward(self, rows: Tensor) -> Tensor:
            self.flat(rows)
            self.listing(rows)
            return self.head(self.inner(rows))

    with pytest.raises(NoSiteError, match=told) as refusal:
        found(Odd(), torch.randn(4, 6), {"mine": path})
    assert "'mine'" in str(refusal.value)


def test_a_model_of_one_layer_has_no_site_and_says_so() -> None:
    with pytest.raises(NoSiteError, match="name sites by their submodule paths"):
        found(nn.Linear(6, 2), torch.randn(4, 6))


@pytest.mark.parametrize("kind", ["conv2d", "attention"])
def test_tracing_leaves_weights_buffers_hooks_and_randomness_alone(kind: Any) -> None:
    model = make_host(kind)
    twin = make_host(kind)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found(model, make_batches(kind)[0][0])

    assert differing(dict(model.state_dict()), dict(twin.state_dict())) == []
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(part._forward_hooks for part in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_tracing_leaves_every_submodule_in_its_own_mode() -> None:
    model = make_host("conv2d")
    model.stem[1].eval()  # type: ignore[index, union-attr]  # a frozen batch norm
    found(model, torch.randn(4, 2, 6, 6))

    assert model.training
    assert not model.stem[1].training  # type: ignore[index, union-attr]
