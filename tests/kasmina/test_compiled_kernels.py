"""A compiled kernel trains as the eager one does, serves only what it fits, and leaves no trace."""

import copy
import io
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.compiling import kernel_loader
from esper_async.kasmina.compiling.kernel_artifact import packed, unpack
from esper_async.kasmina.compiling.kernel_compiler import (
    Examples,
    compilation_key,
    compile_kernel,
)
from esper_async.kasmina.compiling.kernel_forward import (
    CompiledKernelForward,
    is_compiled,
    run_as_written,
    run_compiled,
)
from esper_async.kasmina.compiling.kernel_graphs import NotCompilableError, graphs_of
from esper_async.kasmina.compiling.kernel_loader import Answer, Answers, Wanted
from esper_async.kasmina.compiling.kernel_program import KernelProgram, Manifest, TensorForm
from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.kasmina.compiling.kernel_swap import KernelSwaps
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import Kernel, build_kernel
from tests.kasmina.plots import Plot

SITE = SiteInterface("feature", (8,))
BATCH = 16


class Interpreted(KernelProgram):
    """A program whose passes are run as they were traced: no compiler is needed."""

    def __init__(self, module: nn.Module, h: Tensor) -> None:
        graphs = graphs_of(module, h)
        examples = Examples.of(graphs, module, h)
        self.manifest = examples.manifest(graphs, forward="", backward="")
        self.size_bytes = 1
        self._forward = Traced(graphs.forward)  # type: ignore[assignment]
        self._backward = Traced(graphs.backward)  # type: ignore[assignment]


class Traced:
    """One traced pass, called as a library is."""

    def __init__(self, graph: nn.Module) -> None:
        self.graph = graph

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(self.graph(*inputs))


@pytest.fixture(scope="module")
def program() -> KernelProgram:
    return Interpreted(kernel(), batch())


def kernel() -> Kernel:
    return build_kernel("BP014", SITE, seed=3)


def batch(size: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 8, generator=generator, requires_grad=True)


def gradients(module: nn.Module, h: Tensor) -> list[Tensor]:
    module.zero_grad(set_to_none=True)
    h.grad = None
    module(h).square().mean().backward()
    assert h.grad is not None
    return [h.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)")
def test_a_kernel_really_compiled_is_the_eager_one_and_its_record_says_how_both_compare(
    tmp_path: Path,
):
    threads = torch.get_num_threads()
    record = compile_kernel("BP014", SITE, tmp_path, batch=BATCH, threads=1, strategy=Strategy.FAST)
    torch.set_num_threads(threads)
    assert Compilation.from_json(record.to_json()) == record
    assert record.key == compilation_key("BP014", SITE, batch=BATCH, threads=1)
    assert record.ratio_high is not None
    assert record.kept == (record.ratio_high <= 0.95)
    assert bool(record.reason) == (not record.kept)
    assert record.largest_difference is not None
    assert record.largest_difference < 1e-4
    unpack(packed(tmp_path), tmp_path / "elsewhere")
    program = KernelProgram(tmp_path / "elsewhere")
    program.warm()
    module = kernel()
    expected = gradients(module, batch())
    assert run_compiled(module, program) is None
    for one, other in zip(gradients(module, batch()), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_answer_and_every_gradient_are_the_eager_ones(program: KernelProgram):
    module = kernel()
    expected = [module(batch()).detach(), *gradients(module, batch())]
    assert run_compiled(module, program) is None
    found = [module(batch()).detach(), *gradients(module, batch())]
    assert type(module(batch()).grad_fn).__name__ == "TrainedBackward"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    run_as_written(module)
    assert torch.equal(module(batch()), expected[0])


@pytest.mark.parametrize(
    "case", ["evaluation", "no_grad", "other batch", "input without gradient", "autocast", "vmap"]
)
def test_what_a_program_does_not_serve_runs_as_written(program: KernelProgram, case: str):
    module, plain = kernel(), kernel()
    run_compiled(module, program)
    h = batch(7) if case == "other batch" else batch()
    if case == "evaluation":
        module.eval()
    if case == "input without gradient":
        h = h.detach()
    with (
        torch.set_grad_enabled(case != "no_grad"),
        torch.autocast("cpu", enabled=case == "autocast"),
    ):
        if case == "vmap":
            found, expected = (torch.func.vmap(each)(h[None])[0] for each in (module, plain))
        else:
            found, expected = module(h), plain(h)
    assert torch.equal(found, expected)
    assert type(found.grad_fn).__name__ != "TrainedBackward"


def test_other_tensors_in_the_place_of_its_own_are_not_overlooked(program: KernelProgram):
    module = kernel()
    run_compiled(module, program)
    others = {name: torch.zeros_like(tensor) for name, tensor in module.named_parameters()}
    found = torch.func.functional_call(module, others, (batch(),))
    assert torch.equal(found, torch.func.functional_call(kernel(), others, (batch(),)))


def test_gradients_of_gradients_are_those_of_the_kernel_as_written(program: KernelProgram):
    def penalty(module: nn.Module) -> list[Tensor]:
        h = batch()
        (slope,) = torch.autograd.grad(module(h).sum(), h, create_graph=True)
        module.zero_grad(set_to_none=True)
        slope.square().sum().backward()  # type: ignore[no-untyped-call]
        return [p.grad for p in module.parameters() if p.grad is not None]

    module = kernel()
    expected = penalty(module)
    run_compiled(module, program)
    for one, other in zip(penalty(module), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_copy_and_a_pickle_are_plain_and_names_stay(program: KernelProgram):
    module = kernel()
    before = list(module.state_dict())
    run_compiled(module, program)
    assert list(module.state_dict()) == before
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert not isinstance(twin.__dict__.get("forward"), CompiledKernelForward)
        assert torch.equal(twin(batch()), kernel()(batch()))
    torch.save(module, io.BytesIO())


def test_a_gradient_that_is_expanded_is_laid_out_as_it_was_traced(program: KernelProgram):
    module = kernel()
    run_compiled(module, program)
    module(batch()).sum().backward()
    found = [p.grad for p in module.parameters()]
    plain = kernel()
    plain(batch()).sum().backward()
    for one, other in zip(found, plain.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)


def test_a_kernel_of_other_weights_is_refused(program: KernelProgram):
    other = build_kernel("BP014", SiteInterface("feature", (16,)), seed=0)
    refused = run_compiled(other, program)
    assert refused is not None
    assert "another shape" in refused
    assert not is_compiled(other)
    assert "other weights" in (run_compiled(nn.Linear(2, 2), program) or "")


def test_what_cannot_train_compiled_is_refused_with_the_reason():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, h: Tensor) -> Tensor:
            self.calls += 1
            return h * self.weight

    class Asks(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h * 2 if float(h.sum()) > 0 else h * 3

    with pytest.raises(NotCompilableError, match="random numbers"):
        graphs_of(nn.Dropout(0.5), batch())
    with pytest.raises(NotCompilableError, match="mutations"):
        graphs_of(Counts(), batch())
    with pytest.raises(NotCompilableError, match="cannot be traced"):
        graphs_of(Asks(), batch())


def test_drawing_is_noticed_without_moving_the_stream():
    before = torch.get_rng_state()
    with pytest.raises(NotCompilableError):
        graphs_of(nn.Dropout(0.5), batch())
    assert torch.equal(before, torch.get_rng_state())


def test_emergency_compiles_nothing_and_says_why(tmp_path: Path):
    record = eager_record(tmp_path)
    assert (record.kept, record.reason, record.ratio) == (False, "it broke", None)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_reads_back(program: KernelProgram, tmp_path: Path):
    program.manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == program.manifest


def test_what_is_packed_unpacks_without_the_sources(tmp_path: Path):
    source = tmp_path / "source"
    (source / "forward").mkdir(parents=True)
    (source / "forward" / "a.so").write_bytes(b"code")
    (source / "forward" / "a.cpp").write_text("source")
    content = packed(source)
    assert content == packed(source)
    unpack(content, tmp_path / "out")
    found = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found == ["a.so"]


def test_a_form_asks_for_shape_strides_and_dtype_but_not_of_dimensions_of_one():
    form = TensorForm.of(torch.zeros(4, 1, 3))
    assert form.fits(torch.zeros(4, 3).unsqueeze(1))
    assert not form.fits(torch.zeros(3, 1, 4).transpose(0, 2))
    assert not form.fits(torch.zeros(4, 1, 2))
    assert not form.fits(torch.zeros(4, 1, 3, dtype=torch.float64))


class Sized:
    """Stands for a loaded program of some size."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes


def test_loaded_programs_stay_within_their_budget_and_the_least_recently_used_go():
    answers = Answers(100)
    wishes = [Wanted(f"BP00{number}", SITE, (), BATCH, 1) for number in range(4)]
    for wish in wishes[:2]:
        answers.put(wish, Answer(None, Sized(40), ""))  # type: ignore[arg-type]
    assert answers.get(wishes[0]) is not None
    answers.put(wishes[2], Answer(None, Sized(40), ""))  # type: ignore[arg-type]
    assert [answers.get(wish) is not None for wish in wishes[:3]] == [True, False, True]
    answers.put(wishes[3], Answer(None, Sized(1000), ""))  # type: ignore[arg-type]
    assert [answers.get(wish) is not None for wish in wishes] == [False, False, False, True]


class Shop:
    """Has what it is given; `asked` tells what it was asked to have compiled."""

    def __init__(self, record: Compilation | None) -> None:
        self.kept = record
        self.asked: list[Wanted] = []

    def record(self, wanted: Wanted) -> Compilation | None:
        return self.kept

    def unpack(self, record: Compilation, folder: Path) -> None:
        (folder / "unpacked").touch()

    def ask(self, wanted: Wanted) -> bool:
        self.asked.append(wanted)
        return True


def eager_record(folder: Path) -> Compilation:
    return compile_kernel(
        "BP014", SITE, folder, batch=2, threads=1, strategy=Strategy.EMERGENCY, why="it broke"
    )


def settled(swaps: KernelSwaps, plot: Plot) -> list:
    """Pass boundaries until the loader has answered."""
    found: list = []
    for _ in range(2000):
        found = swaps.boundary(plot.executor.seeds.values())
        if found:
            break
        threading.Event().wait(0.005)
    return found


def test_a_swap_carries_weights_and_optimizer_state_over_to_the_bit(
    program: KernelProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kernel_loader, "KernelProgram", lambda folder: program)
    kept = replace(eager_record(tmp_path), kept=True, reason="")
    plot = Plot("mlp", twin=False)
    (seed,) = plot.plant("BP014")
    assert program.manifest.inputs[-1].shape[1:] == seed.site.interface.shape
    swaps = KernelSwaps(Shop(kept), tmp_path, batch=BATCH, threads=1)
    plot.until("BLENDING")
    before = {name: tensor.clone() for name, tensor in seed.kernel.state_dict().items()}
    held = [id(parameter) for parameter in seed.kernel.parameters()]
    state = copy.deepcopy(seed.optimizer.state_dict())  # type: ignore[union-attr]
    (swap,) = settled(swaps, plot)
    assert (swap.compiled, swap.seed, swap.reason) == (True, seed.id, "")
    assert swap.fetch_ms is not None
    assert swap.fetch_ms > 0
    assert is_compiled(seed.kernel)
    assert [id(parameter) for parameter in seed.kernel.parameters()] == held
    assert all(torch.equal(before[n], t) for n, t in seed.kernel.state_dict().items())
    after = seed.optimizer.state_dict()  # type: ignore[union-attr]
    for key, values in state["state"].items():
        assert all(torch.equal(values[name], after["state"][key][name]) for name in values)
    assert swaps.boundary(plot.executor.seeds.values()) == []
    plot.step(0)
    swaps.close()
    assert not is_compiled(seed.kernel)
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_that_is_not_there_is_asked_for_once_and_one_that_stays_eager_is_told_once(
    tmp_path: Path,
):
    plot = Plot("mlp", twin=False)
    plot.plant("BP014")
    plot.until("BLENDING")
    shop = Shop(None)
    swaps = KernelSwaps(shop, tmp_path, batch=BATCH, threads=1)
    for _ in range(20):
        assert swaps.boundary(plot.executor.seeds.values()) == []
        threading.Event().wait(0.005)
    assert len(shop.asked) == 1
    shop.kept = eager_record(tmp_path)
    (swap,) = settled(swaps, plot)
    assert (swap.compiled, swap.reason) == (False, "it broke")
    assert swaps.boundary(plot.executor.seeds.values()) == []
    swaps.close()


def test_nothing_is_compiled_for_a_seed_that_has_yet_to_win_its_place(tmp_path: Path):
    plot = Plot("mlp", twin=False)
    plot.plant("BP014")
    plot.until("TRAINING")
    shop = Shop(None)
    swaps = KernelSwaps(shop, tmp_path, batch=BATCH, threads=1)
    swaps.boundary(plot.executor.seeds.values())
    swaps.close()  # ends the thread that asks
    assert shop.asked == []
