"""A proof certifies what holds, names what does not, and disturbs nothing around it."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina import proof
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import (
    REGISTRY,
    Blueprint,
    Kernel,
    KernelRefusedError,
    SettingRefusedError,
    register,
)
from esper_async.kasmina.proof import Certificate, certificate_key, code_hash, prove
from tests.kasmina.kernel_sites import PLANTINGS, SITES, planting_id

LINE = SiteInterface("spatial", (8, 1, 20))
WORDS = SiteInterface("sequence", (6, 8))


@pytest.fixture
def planted() -> Iterator[Callable[[type[Kernel]], str]]:
    """Register a kernel for the length of a test."""
    added: list[str] = []

    def put(kernel: type[Kernel]) -> str:
        declared = Blueprint(
            id=f"TEST{len(added)}", name=f"test_{len(added)}", stage=0, risk=0.0,
            output="change", description="", kinds=("spatial", "sequence"),
        )  # fmt: skip
        register(declared)(kernel)
        added.append(declared.id)
        return declared.id

    yield put
    for blueprint_id in added:
        del REGISTRY[blueprint_id]


class Plain(Kernel):
    """A quiet linear change, for the broken ones to differ from."""

    def __init__(self, site: SiteInterface) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        return self.gain * h


@pytest.mark.parametrize(
    ("blueprint_id", "site"),
    [(i, site) for i, site in PLANTINGS if site in SITES[::3]],
    ids=planting_id,
)
def test_every_blueprint_is_certified_where_it_fits(blueprint_id: str, site: SiteInterface) -> None:
    certificate = prove(blueprint_id, site)
    assert certificate.failures == ()
    assert certificate.passed
    assert certificate.parameter_count is not None
    assert certificate.forward_ms is not None


def test_a_certificate_survives_json() -> None:
    certificate = prove("BP009", LINE, parameters={"width": 16})
    assert Certificate.from_json(certificate.to_json()) == certificate


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"schema": 1, "key": "k"}', '{"schema": 99}', "not json"]
)
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"certificate|Expecting"):
        Certificate.from_json(text)


def test_costs_are_those_of_the_kernel() -> None:
    certificate = prove("BP002", SiteInterface("feature", (10,)))
    assert certificate.parameter_count == 110
    assert certificate.parameter_bytes == 440
    assert certificate.forward_macs == 100
    assert certificate.training_flops == 3 * 2 * 100


def test_attention_is_counted_in_full() -> None:
    width, places, channels = 32, 20, 8
    attending = 2 * places * places * width
    mapping = places * channels * (3 * width) + places * width * channels
    certificate = prove("BP020", LINE)
    assert certificate.forward_macs == attending + mapping


def test_two_proofs_agree_in_all_but_time() -> None:
    timed = {"forward_ms", "training_ms", "proof_ms"}
    one, other = prove("BP028", LINE), prove("BP028", LINE)
    for name in set(Certificate.__dataclass_fields__) - timed:
        assert getattr(one, name) == getattr(other, name), name


def test_a_proof_leaves_torch_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    threads, running = torch.get_num_threads(), threading.active_count()
    with torch.no_grad():
        assert prove("PL001", LINE, drill=True).passed
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert threading.active_count() == running


def test_a_proof_holds_inside_inference_mode_and_autocast() -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert prove("BP021", LINE).passed


def test_a_kernel_that_changes_the_shape_fails(planted: Callable[[type[Kernel]], str]) -> None:
    class Shrinking(Plain):
        def forward(self, h: Tensor) -> Tensor:
            return self.gain * h[..., :-1]

    certificate = prove(planted(Shrinking), LINE)
    assert not certificate.passed
    assert "returns shape" in certificate.failures[0]
    assert certificate.forward_ms is None


def test_a_kernel_that_changes_the_dtype_fails(planted: Callable[[type[Kernel]], str]) -> None:
    class Doubling(Plain):
        def forward(self, h: Tensor) -> Tensor:
            return super().forward(h).double()

    assert "returns dtype torch.float64" in prove(planted(Doubling), LINE).failures[0]


def test_a_kernel_that_writes_into_its_input_fails(planted: Callable[[type[Kernel]], str]) -> None:
    class Writing(Plain):
        def forward(self, h: Tensor) -> Tensor:
            return self.gain * h.detach().mul_(2)

    assert "writes into its input" in prove(planted(Writing), LINE).failures


def test_a_starved_kernel_fails_and_the_tensors_are_named(
    planted: Callable[[type[Kernel]], str],
) -> None:
    class Starved(Kernel):
        """Both the gate and the last layer are zero: nothing ever learns."""

        def __init__(self, site: SiteInterface) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.zeros(()))
            self.last = nn.Parameter(torch.zeros(()))

        def forward(self, h: Tensor) -> Tensor:
            return self.gate * self.last * h

    failures = prove(planted(Starved), LINE).failures
    assert failures == ("has had no gradient in gate, last after 20 steps",)


def test_a_kernel_without_parameters_must_declare_it(
    planted: Callable[[type[Kernel]], str],
) -> None:
    class Empty(Kernel):
        def __init__(self, site: SiteInterface) -> None:
            super().__init__()

        def forward(self, h: Tensor) -> Tensor:
            return 0 * h

    assert prove(planted(Empty), LINE).failures == ("has no parameters and declares no exemption",)


def test_a_loud_start_fails(planted: Callable[[type[Kernel]], str]) -> None:
    class Loud(Plain):
        def __init__(self, site: SiteInterface) -> None:
            super().__init__(site)
            self.gain = nn.Parameter(torch.ones(()))

    certificate = prove(planted(Loud), LINE)
    assert certificate.start_distance == pytest.approx(1.0)
    assert "starts 1 of the activation away" in certificate.failures[0]


def test_answers_that_are_not_finite_fail(planted: Callable[[type[Kernel]], str]) -> None:
    class Dividing(Plain):
        def forward(self, h: Tensor) -> Tensor:
            return self.gain * h / h.square().mean(dim=(1, 2, 3), keepdim=True)

    failures = prove(planted(Dividing), LINE).failures
    assert "answers zero activations with what is not finite" in failures


def test_a_kernel_that_mixes_samples_fails(planted: Callable[[type[Kernel]], str]) -> None:
    class Mixing(Plain):
        def forward(self, h: Tensor) -> Tensor:
            return self.gain * (h - h.mean(0))

    assert "mixes the samples of a batch" in prove(planted(Mixing), LINE).failures


def test_a_kernel_that_looks_ahead_in_a_sequence_fails(
    planted: Callable[[type[Kernel]], str],
) -> None:
    class Looking(Plain):
        def forward(self, h: Tensor) -> Tensor:
            return self.gain * h.mean(1, keepdim=True).expand_as(h)

    looking = planted(Looking)
    words = "lets a position of the sequence see what comes after it"
    assert prove(looking, WORDS).failures == (words,)
    assert prove(looking, LINE).passed


def test_a_kernel_whose_state_is_not_in_its_state_dict_fails(
    planted: Callable[[type[Kernel]], str],
) -> None:
    class Forgetful(Plain):
        def __init__(self, site: SiteInterface) -> None:
            super().__init__(site)
            self.hidden = torch.randn(()).item()

        def forward(self, h: Tensor) -> Tensor:
            return super().forward(h) * self.hidden

    failures = prove(planted(Forgetful), LINE).failures
    assert failures == ("answers differently after a state_dict round trip",)


def test_a_kernel_that_draws_from_elsewhere_fails(planted: Callable[[type[Kernel]], str]) -> None:
    elsewhere = torch.Generator().manual_seed(0)

    class Straying(Plain):
        def __init__(self, site: SiteInterface) -> None:
            super().__init__(site)
            self.other = nn.Parameter(1e-4 * torch.randn(site.shape, generator=elsewhere))

        def forward(self, h: Tensor) -> Tensor:
            return self.gain * h + self.other

    assert "two builds with one seed differ in other" in prove(planted(Straying), LINE).failures


def test_a_kernel_that_raises_is_a_finding_and_not_a_crash(
    planted: Callable[[type[Kernel]], str],
) -> None:
    class Raising(Plain):
        def forward(self, h: Tensor) -> Tensor:
            raise RuntimeError("no forward today")

    assert prove(planted(Raising), LINE).failures == (
        "raised in check contract: RuntimeError: no forward today",
    )


def test_a_nan_injector_is_found_out_in_a_drill() -> None:
    certificate = prove("BP045", LINE, drill=True)
    assert not certificate.passed
    assert certificate.start_distance is None


def test_a_quarantined_kernel_is_not_proved_for_a_live_run() -> None:
    with pytest.raises(KernelRefusedError, match="refused for every live run"):
        prove("PL001", LINE)


def test_what_cannot_be_asked_for_is_refused_before_anything_is_proved() -> None:
    with pytest.raises(KernelRefusedError, match="does not fit"):
        prove("BP032", SiteInterface("feature", (8,)))
    with pytest.raises(SettingRefusedError, match="width"):
        prove("BP009", LINE, parameters={"width": 1})


def test_a_key_changes_with_whatever_the_certificate_vouches_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [
        certificate_key("BP009", LINE),
        certificate_key("BP010", LINE),
        certificate_key("BP009", WORDS),
        certificate_key("BP009", LINE, parameters={"width": 16}),
        certificate_key("BP009", SiteInterface("spatial", (8, 1, 20), "bfloat16")),
    ]
    monkeypatch.setattr(torch, "__version__", "2.8.1")
    keys.append(certificate_key("BP009", LINE))
    monkeypatch.setattr(proof, "code_hash", lambda blueprint_id: "another")
    keys.append(certificate_key("BP009", LINE))
    assert len(set(keys)) == len(keys)


def test_a_default_asked_for_by_value_has_the_same_key() -> None:
    assert certificate_key("BP009", LINE) == certificate_key(
        "BP009", LINE, parameters={"width": 64}
    )


def test_a_code_hash_covers_the_shared_layers() -> None:
    from esper_async.kasmina import code_hash as module

    files = {path.name for path in module._sources("esper_async.kasmina.kernels.attention")}
    assert {"attention.py", "block.py", "layers.py", "kernel.py", "registry.py"} <= files
    assert "graft.py" not in files
    assert code_hash("BP020") == code_hash("BP023") != code_hash("BP009")
