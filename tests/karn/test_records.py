"""The catalogue holds the fifty, as named and graded, and says what the kernels say."""

import re
import subprocess
import sys

import pytest

from esper_async.karn.catalogue import Catalogue
from esper_async.karn.errors import UnknownBlueprintError
from esper_async.karn.record import BlueprintRecord, Interface
from esper_async.kasmina import catalogue as generator
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import QUARANTINE, REGISTRY

# The design's own list: stage, then each blueprint with its risk (a stage's where none is given).
DESIGN = """
0: 001 identity_passthrough 0.0 · 002 linear_projection .1 · 003 layer_norm_basic .1 ·
   004 dropout_light .2 · 005 relu_activation .1 · 006 batch_norm_1d .2 · 007 pooling_max .2
1: 008 skip_connection .2 · 009 residual_block .3 · 010 concat_fusion .3 · 011 gelu_activation .2 ·
   012 layer_scaling .3 · 013 grouped_conv .4 · 014 highway_gate .4
2: 015 depthwise_separable .4 · 016 squeeze_excitation .4 · 017 channel_attention .4 ·
   018 spatial_attention .4 · 019 cross_attention .5 · 020 attention_single_head .5 ·
   021 feedforward_gated .5
3: 022 multi_head_attention_4 .5 · 023 transformer_block .5 · 024 conv_transformer .5 ·
   025 dynamic_conv .5 · 026 adaptive_pooling .5 · 027 feature_pyramid .5 · 028 dense_connection .5
4: 029 multi_head_attention_8 .5 · 030 graph_attention .5 · 031 temporal_conv .5 ·
   032 dilated_conv .5 · 033 deformable_conv .5 · 034 non_local_block .5 · 035 learned_positional .5
5: 036 mixture_of_experts_4 .7 · 037 hierarchical_attention .7 · 038 memory_augmented .8 ·
   039 neural_ode_block .8 · 040 differentiable_nas .8 · 041 meta_learning_layer .8 ·
   042 recursive_processing .8
6: 043 exploding_gradient .9 · 044 vanishing_gradient .9 · 045 nan_injection 1.0 ·
   046 infinite_loop 1.0 · 047 memory_leak 1.0 · 048 deadlock_pattern 1.0 · 049 race_condition .9 ·
   050 adversarial_noise .9
"""
CATALOGUE = Catalogue()


def design() -> list[tuple[str, str, int, float]]:
    listed = []
    for block in re.split(r"\n(?=\d:)", DESIGN.strip()):
        stage = int(block[0])
        for number, name, risk in re.findall(r"(\d{3}) (\w+) ([\d.]+)", block[2:]):
            listed.append((f"BP{number}", name, stage, float(risk)))
    return listed


def test_the_fifty_are_named_and_graded_as_designed() -> None:
    assert len(CATALOGUE) == 50
    held = [(r.id, r.name, r.stage, r.risk) for r in CATALOGUE.records]
    assert held == design()


def test_the_tiers_are_where_the_design_draws_them() -> None:
    for record in CATALOGUE.records:
        number = int(record.id[2:])
        tier = "production" if number <= 35 else "experimental" if number <= 42 else "adversarial"
        assert record.tier == tier, record.id


@pytest.mark.parametrize("record", CATALOGUE.records, ids=lambda record: record.id)
def test_every_record_is_described_approved_and_bounded(record: BlueprintRecord) -> None:
    assert record.description.endswith(".")
    assert record.kinds
    assert record.approval.approved_by
    assert record.approval.note
    for parameter in record.parameters:
        assert parameter.low <= parameter.high, parameter.name
        assert parameter.meaning
        assert parameter.preset


def test_the_generated_catalogue_is_not_stale() -> None:
    """Mend it with `python -m esper_async.kasmina.catalogue`."""
    assert generator.is_fresh()


def test_a_stale_catalogue_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("esper_async.karn.generated.RECORDS", CATALOGUE.records[1:])
    assert generator.main(["--check"]) == 1
    assert "is stale; run" in capsys.readouterr().err


def test_every_record_has_a_kernel_on_the_shelf_of_its_tier() -> None:
    adversarial = {record.id for record in CATALOGUE.records if record.tier == "adversarial"}
    assert {record.id for record in CATALOGUE.records} - adversarial == set(REGISTRY)
    assert adversarial == {key for key in QUARANTINE if key.startswith("BP")}


@pytest.mark.parametrize(
    "interface",
    [
        Interface("spatial", (1, 1, 2)),
        Interface("spatial", (8, 1, 40)),
        Interface("spatial", (2, 40, 40)),
        Interface("sequence", (1, 4)),
        Interface("sequence", (2000, 4)),
        Interface("feature", (1,)),
        Interface("feature", (64,)),
    ],
    ids=str,
)
def test_the_catalogue_and_the_kernels_agree_on_what_fits(interface: Interface) -> None:
    site = SiteInterface(interface.kind, interface.shape)
    for blueprint_id, kernel in REGISTRY.items():
        fits = kernel.blueprint.misfit(site) is None
        assert CATALOGUE.describe(blueprint_id).fits(interface) == fits, blueprint_id


def test_costs_stand_for_every_reference_interface_that_a_blueprint_fits() -> None:
    record = CATALOGUE.describe("BP002")
    cost = record.cost_at(Interface("feature", (64,)))
    assert cost is not None
    assert (cost.parameters, cost.forward_flops) == (64 * 65, 2 * 64 * 64)
    assert record.cost_at(Interface("feature", (63,))) is None


def test_an_unknown_id_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownBlueprintError, match="no blueprint 'BP51'; the nearest is BP0"):
        CATALOGUE.describe("BP51")


def test_two_records_of_one_id_are_refused() -> None:
    with pytest.raises(
        ValueError, match="BP001 identity_passthrough stands in the catalogue twice"
    ):
        Catalogue([CATALOGUE.records[0], CATALOGUE.records[0]])


def test_karn_never_imports_torch() -> None:
    program = (
        "import sys, esper_async.karn.service, esper_async.karn.generated\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
