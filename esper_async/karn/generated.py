"""The catalogue's records. Generated from the kernels; do not edit.

Write it anew with `python -m esper_async.kasmina.catalogue`.
"""

# ruff: noqa: E501

from esper_async.karn.record import Approval, BlueprintRecord, Cost, Interface, ParameterRecord

RECORDS: tuple[BlueprintRecord, ...] = (
    BlueprintRecord(
        id="BP001",
        name="identity_passthrough",
        tier="production",
        stage=0,
        risk=0.0,
        description="Hands the activation on untouched: the fallback, and the null treatment.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="replacement",
        code_hash="012400a0bc48d4cb0f3cd1b8dec306ac0eb70a0cf4d5b10e066d539a62ed9019",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=0, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=0, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=0, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP002",
        name="linear_projection",
        tier="production",
        stage=0,
        risk=0.1,
        description="A linear map of the channels at every position, of full or low rank.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="012400a0bc48d4cb0f3cd1b8dec306ac0eb70a0cf4d5b10e066d539a62ed9019",
        parameters=(
            ParameterRecord(
                name="rank",
                low=0,
                high=512,
                preset="0",
                meaning="rank of the map; 0 for a full one",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=72, forward_flops=5120, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=4160, forward_flops=262144, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=4160, forward_flops=8192, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP003",
        name="layer_norm_basic",
        tier="production",
        stage=0,
        risk=0.1,
        description="Adds the normalised activation through a gain and a shift per channel.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="003958d644474eeb9926ce3f658139292032368b3b7eb54c471d1a690301f80c",
        parameters=(),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=16, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=128, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=128, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP004",
        name="dropout_light",
        tier="production",
        stage=0,
        risk=0.2,
        description="Drops few values while training, and rescales every channel (Srivastava et al. 2014).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="replacement",
        code_hash="d0e19143d2f8d570c908ce50cb78333ede39de74d17e1d44d249f22b288e7e38",
        parameters=(
            ParameterRecord(
                name="percent",
                low=1,
                high=30,
                preset="5",
                meaning="values dropped, in hundredths",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP005",
        name="relu_activation",
        tier="production",
        stage=0,
        risk=0.1,
        description="A bent line per channel: a rectifier with a learned knee, slope and gain.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="003958d644474eeb9926ce3f658139292032368b3b7eb54c471d1a690301f80c",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=24, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=192, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=192, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP006",
        name="batch_norm_1d",
        tier="production",
        stage=0,
        risk=0.2,
        description="Adds each feature normalised over the batch, through a gain and a shift (Ioffe and Szegedy 2015).",
        kinds=("feature",),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="d0e19143d2f8d570c908ce50cb78333ede39de74d17e1d44d249f22b288e7e38",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=128, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP007",
        name="pooling_max",
        tier="production",
        stage=0,
        risk=0.2,
        description="Adds the largest value of each channel's neighbourhood, through a gain.",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="003958d644474eeb9926ce3f658139292032368b3b7eb54c471d1a690301f80c",
        parameters=(
            ParameterRecord(
                name="window",
                low=3,
                high=9,
                preset="3",
                meaning="places pooled along each axis",
                odd=True,
            ),
        ),
        least_channels=1,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP008",
        name="skip_connection",
        tier="production",
        stage=1,
        risk=0.2,
        description="A second, weighted path for every channel past whatever follows.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="012400a0bc48d4cb0f3cd1b8dec306ac0eb70a0cf4d5b10e066d539a62ed9019",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP009",
        name="residual_block",
        tier="production",
        stage=1,
        risk=0.3,
        description="Two convolutions (on features: two linear maps) with a wide layer between (He et al. 2016).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="a859502dbb0573c28e8e35468c41b262cd338e37b83469dc2604b2463fbceac0",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=1024,
                preset="max(64, 1 x channels)",
                meaning="hidden channels",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=1,
                high=11,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis with more than one place",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=5336, forward_flops=409600, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=41344, forward_flops=2621440, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=8576, forward_flops=16384, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP010",
        name="concat_fusion",
        tier="production",
        stage=1,
        risk=0.3,
        description="Looks at the activation through branches of growing reach, side by side, and fuses what they say.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="a859502dbb0573c28e8e35468c41b262cd338e37b83469dc2604b2463fbceac0",
        parameters=(
            ParameterRecord(
                name="branch_width",
                low=2,
                high=256,
                preset="max(24, 1 x channels)",
                meaning="channels of each branch",
                odd=False,
            ),
            ParameterRecord(
                name="branches",
                low=2,
                high=4,
                preset="3",
                meaning="branches, of 1, 3, 5 .. taps",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=2400, forward_flops=184320, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=49536, forward_flops=3145728, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=24960, forward_flops=49152, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP011",
        name="gelu_activation",
        tier="production",
        stage=1,
        risk=0.2,
        description="A smooth bend per channel: GELU with a learned knee, slope and gain.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="003958d644474eeb9926ce3f658139292032368b3b7eb54c471d1a690301f80c",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=24, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=192, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=192, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP012",
        name="layer_scaling",
        tier="production",
        stage=1,
        risk=0.3,
        description="Rescales and shifts every channel.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="replacement",
        code_hash="012400a0bc48d4cb0f3cd1b8dec306ac0eb70a0cf4d5b10e066d539a62ed9019",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=16, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=128, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=128, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP013",
        name="grouped_conv",
        tier="production",
        stage=1,
        risk=0.4,
        description="A wide convolution whose channels mix only within groups (Xie et al. 2017).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="944756485acedeaea7b92dfecc810924f2c7651ee26966e497d8072125ea0c7d",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=1024,
                preset="max(48, 2 x channels)",
                meaning="hidden channels, rounded up to the groups",
                odd=False,
            ),
            ParameterRecord(
                name="groups", low=2, high=16, preset="4", meaning="groups of channels", odd=False
            ),
            ParameterRecord(
                name="kernel_size",
                low=1,
                high=11,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis with more than one place",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=3864, forward_flops=291840, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=37568, forward_flops=2359296, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP014",
        name="highway_gate",
        tier="production",
        stage=1,
        risk=0.4,
        description="Lets a learned gate choose, value by value, between the activation and a transform of its neighbourhood (Srivastava et al. 2015).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="replacement",
        code_hash="012400a0bc48d4cb0f3cd1b8dec306ac0eb70a0cf4d5b10e066d539a62ed9019",
        parameters=(
            ParameterRecord(
                name="kernel_size",
                low=1,
                high=11,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis with more than one place",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=416, forward_flops=30720, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=24832, forward_flops=1572864, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=8448, forward_flops=16384, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP015",
        name="depthwise_separable",
        tier="production",
        stage=2,
        risk=0.4,
        description="Mixes positions channel by channel, then channels position by position, through a wide layer (Liu et al. 2022).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="944756485acedeaea7b92dfecc810924f2c7651ee26966e497d8072125ea0c7d",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=2048,
                preset="max(64, 4 x channels)",
                meaning="hidden channels",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=3,
                high=11,
                preset="9 on a line, 7 on a plane",
                meaning="taps along each axis",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1192, forward_flops=87680, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=33856, forward_flops=2134016, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP016",
        name="squeeze_excitation",
        tier="production",
        stage=2,
        risk=0.4,
        description="Rescales every channel by what the whole activation, averaged over positions, says about it (Hu et al. 2018); on sequences, averaged over the past.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="replacement",
        code_hash="6c65fcf7b5410d0fd8445fc6df93d72ed7d1c25426dbec0194784fa59df1f43f",
        parameters=(
            ParameterRecord(
                name="width",
                low=2,
                high=256,
                preset="max(16, 1 x channels)",
                meaning="hidden channels of the gate",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=280, forward_flops=512, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=8320, forward_flops=524288, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=8320, forward_flops=16384, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP017",
        name="channel_attention",
        tier="production",
        stage=2,
        risk=0.4,
        description="Rescales every channel by both its mean and its largest value (Woo et al. 2018); on sequences, over the past.",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="replacement",
        code_hash="6c65fcf7b5410d0fd8445fc6df93d72ed7d1c25426dbec0194784fa59df1f43f",
        parameters=(
            ParameterRecord(
                name="width",
                low=2,
                high=256,
                preset="max(16, 1 x channels)",
                meaning="hidden channels of the gate",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=280, forward_flops=1024, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=8320, forward_flops=1048576, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP018",
        name="spatial_attention",
        tier="production",
        stage=2,
        risk=0.4,
        description="Rescales every position by the mean and the largest of its and its neighbours' channels (Woo et al. 2018).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="replacement",
        code_hash="6c65fcf7b5410d0fd8445fc6df93d72ed7d1c25426dbec0194784fa59df1f43f",
        parameters=(
            ParameterRecord(
                name="width",
                low=2,
                high=64,
                preset="8",
                meaning="hidden channels of the gate",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=3,
                high=11,
                preset="9 on a line, 7 on a plane",
                meaning="taps along each axis",
                odd=True,
            ),
        ),
        least_channels=1,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=161, forward_flops=12160, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=161, forward_flops=9728, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP019",
        name="cross_attention",
        tier="production",
        stage=2,
        risk=0.5,
        description="Learned tokens attend to all positions (on sequences: to the past), and every position attends to the tokens (Lee et al. 2019; Jaegle et al. 2021).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="f6b89f2c8cc030b45c4b1f0ec7212ecff162120eb76b2cd54cd3b501e4ec99db",
        parameters=(
            ParameterRecord(
                name="tokens", low=2, high=64, preset="8", meaning="learned tokens", odd=False
            ),
            ParameterRecord(
                name="width",
                low=4,
                high=256,
                preset="max(32, 1 x channels)",
                meaning="channels of a token",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1656, forward_flops=163840, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=17792, forward_flops=1146880, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP020",
        name="attention_single_head",
        tier="production",
        stage=2,
        risk=0.5,
        description="One head of attention between positions (Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="ab5af46403c977a1b96344c2a6ec21a8031ec2d3290f8ff64d7bbf5baa4c48f1",
        parameters=(
            ParameterRecord(
                name="head_width",
                low=4,
                high=256,
                preset="max(32, 1 x channels)",
                meaning="channels of the head",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=1024,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1368, forward_flops=286720, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=16576, forward_flops=1310720, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP021",
        name="feedforward_gated",
        tier="production",
        stage=2,
        risk=0.5,
        description="A wide gated layer at every position, and back (Shazeer 2020).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="a859502dbb0573c28e8e35468c41b262cd338e37b83469dc2604b2463fbceac0",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=2048,
                preset="max(64, 2 x channels)",
                meaning="hidden channels",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1688, forward_flops=122880, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=25024, forward_flops=1572864, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=25024, forward_flops=49152, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP022",
        name="multi_head_attention_4",
        tier="production",
        stage=3,
        risk=0.5,
        description="Four heads of attention between positions (Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="ab5af46403c977a1b96344c2a6ec21a8031ec2d3290f8ff64d7bbf5baa4c48f1",
        parameters=(
            ParameterRecord(
                name="width",
                low=8,
                high=512,
                preset="max(32, 1 x channels)",
                meaning="channels over all heads, rounded up",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=1024,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1368, forward_flops=286720, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=16576, forward_flops=1310720, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP023",
        name="transformer_block",
        tier="production",
        stage=3,
        risk=0.5,
        description="Attention between positions, then a wide gated layer at each (Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="ab5af46403c977a1b96344c2a6ec21a8031ec2d3290f8ff64d7bbf5baa4c48f1",
        parameters=(
            ParameterRecord(
                name="heads", low=1, high=16, preset="4", meaning="heads of attention", odd=False
            ),
            ParameterRecord(
                name="attention_width",
                low=8,
                high=512,
                preset="max(32, 1 x channels)",
                meaning="channels over all heads",
                odd=False,
            ),
            ParameterRecord(
                name="width",
                low=4,
                high=2048,
                preset="max(64, 2 x channels)",
                meaning="hidden channels of the wide layer",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=1024,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=3056, forward_flops=409600, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=41600, forward_flops=2883584, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP024",
        name="conv_transformer",
        tier="production",
        stage=3,
        risk=0.5,
        description="A convolution, then attention between positions, then a wide gated layer at each (Gulati et al. 2020; Wu et al. 2021).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="ab5af46403c977a1b96344c2a6ec21a8031ec2d3290f8ff64d7bbf5baa4c48f1",
        parameters=(
            ParameterRecord(
                name="heads", low=1, high=16, preset="4", meaning="heads of attention", odd=False
            ),
            ParameterRecord(
                name="width",
                low=8,
                high=512,
                preset="max(32, 1 x channels)",
                meaning="channels over all heads, rounded up",
                odd=False,
            ),
            ParameterRecord(
                name="local_width",
                low=4,
                high=512,
                preset="max(16, 1 x channels)",
                meaning="hidden channels of the convolution",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=1,
                high=11,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis with more than one place",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=1024,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=3032, forward_flops=409600, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=54016, forward_flops=3670016, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP025",
        name="dynamic_conv",
        tier="production",
        stage=3,
        risk=0.5,
        description="A convolution whose taps every position weighs anew, by what it sees (Wu et al. 2019).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="f083ceb0c29983f0eb353fe8b506f26f7cde7c22c7a16fc1ddc9371df631ee30",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=512,
                preset="max(32, 1 x channels)",
                meaning="hidden channels, rounded up to the heads",
                odd=False,
            ),
            ParameterRecord(
                name="heads",
                low=1,
                high=16,
                preset="4",
                meaning="groups of channels, each with taps of its own",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=1,
                high=11,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis with more than one place",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=748, forward_flops=53760, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=9748, forward_flops=606208, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP026",
        name="adaptive_pooling",
        tier="production",
        stage=3,
        risk=0.5,
        description="Adds what means over the whole, halves and quarters of each axis hold (Zhao et al. 2017); on sequences, over so long a stretch of the past.",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="3fd8f4be9a5a6811088b152d20d8b3e0136c63e9e2fb5668d21fa9489fb9335f",
        parameters=(
            ParameterRecord(
                name="width",
                low=2,
                high=512,
                preset="max(24, 1 x channels)",
                meaning="channels of each scale",
                odd=False,
            ),
            ParameterRecord(
                name="scales",
                low=1,
                high=5,
                preset="3",
                meaning="scales, each half as coarse as the one before",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1008, forward_flops=33408, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=20736, forward_flops=1310720, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP027",
        name="feature_pyramid",
        tier="production",
        stage=3,
        risk=0.5,
        description="Goes down to coarser and coarser maps and comes back up, adding the coarse to the fine (Lin et al. 2017).",
        kinds=("spatial",),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="3fd8f4be9a5a6811088b152d20d8b3e0136c63e9e2fb5668d21fa9489fb9335f",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=512,
                preset="max(16, 1 x channels)",
                meaning="channels of every map",
                odd=False,
            ),
            ParameterRecord(
                name="levels",
                low=2,
                high=5,
                preset="3",
                meaning="maps, each half the size of the one before",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=4,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=3192, forward_flops=158720, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP028",
        name="dense_connection",
        tier="production",
        stage=3,
        risk=0.5,
        description="A chain of layers, each seeing the activation and every layer before it (Huang et al. 2017).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="a859502dbb0573c28e8e35468c41b262cd338e37b83469dc2604b2463fbceac0",
        parameters=(
            ParameterRecord(
                name="growth",
                low=2,
                high=256,
                preset="16",
                meaning="channels that each layer adds",
                odd=False,
            ),
            ParameterRecord(
                name="layers", low=1, high=6, preset="3", meaning="layers in the chain", odd=False
            ),
            ParameterRecord(
                name="kernel_size",
                low=1,
                high=11,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis with more than one place",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=6280, forward_flops=496640, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=26608, forward_flops=1687552, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=11248, forward_flops=22016, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP029",
        name="multi_head_attention_8",
        tier="production",
        stage=4,
        risk=0.5,
        description="Eight heads of attention between positions (Vaswani et al. 2017).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="ab5af46403c977a1b96344c2a6ec21a8031ec2d3290f8ff64d7bbf5baa4c48f1",
        parameters=(
            ParameterRecord(
                name="width",
                low=8,
                high=512,
                preset="max(32, 1 x channels)",
                meaning="channels over all heads, rounded up",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=1024,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1368, forward_flops=286720, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=16576, forward_flops=1310720, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP030",
        name="graph_attention",
        tier="production",
        stage=4,
        risk=0.5,
        description="Attention between positions along the edges of a learned graph (Velickovic et al. 2018).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="ac77875847ed90dec736d6d2f68babc5fc61a3e39d53d91dd2d635136e3c1983",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=256,
                preset="max(24, 1 x channels)",
                meaning="channels over all heads, rounded up",
                odd=False,
            ),
            ParameterRecord(
                name="heads",
                low=1,
                high=8,
                preset="2",
                meaning="heads, each with edges of its own",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=256,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1120, forward_flops=136960, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=9088, forward_flops=679936, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP031",
        name="temporal_conv",
        tier="production",
        stage=4,
        risk=0.5,
        description="Two convolutions over time, or over the last axis, with a gate between (Bai et al. 2018; van den Oord et al. 2016).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="944756485acedeaea7b92dfecc810924f2c7651ee26966e497d8072125ea0c7d",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=1024,
                preset="max(32, 1 x channels)",
                meaning="hidden channels",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=3,
                high=11,
                preset="5",
                meaning="taps along the last axis",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=3928, forward_flops=307200, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=61760, forward_flops=3932160, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP032",
        name="dilated_conv",
        tier="production",
        stage=4,
        risk=0.5,
        description="A stack of convolutions of doubling dilation: far reach in few layers (Yu and Koltun 2016).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="944756485acedeaea7b92dfecc810924f2c7651ee26966e497d8072125ea0c7d",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=512,
                preset="max(16, 1 x channels)",
                meaning="hidden channels",
                odd=False,
            ),
            ParameterRecord(
                name="layers",
                low=1,
                high=5,
                preset="3",
                meaning="layers, each reaching twice as far as the one before",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=3,
                high=7,
                preset="3",
                meaning="taps along each axis",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=2744, forward_flops=204800, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=45888, forward_flops=2883584, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP033",
        name="deformable_conv",
        tier="production",
        stage=4,
        risk=0.5,
        description="A convolution that moves each of its taps to where the activation tells it to look (Dai et al. 2017).",
        kinds=("spatial",),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="f083ceb0c29983f0eb353fe8b506f26f7cde7c22c7a16fc1ddc9371df631ee30",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=256,
                preset="max(16, 1 x channels)",
                meaning="hidden channels",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=3,
                high=7,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1797, forward_flops=138880, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP034",
        name="non_local_block",
        tier="production",
        stage=4,
        risk=0.5,
        description="Adds to every position a mean of all others, weighted by how alike they are (Wang et al. 2018).",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="ab5af46403c977a1b96344c2a6ec21a8031ec2d3290f8ff64d7bbf5baa4c48f1",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=512,
                preset="max(32, 1 x channels)",
                meaning="channels compared",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=2,
        most_positions=1024,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1144, forward_flops=286720, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=16768, forward_flops=1310720, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP035",
        name="learned_positional",
        tier="production",
        stage=4,
        risk=0.5,
        description="Adds a learned vector for each position.",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design", approved_on="2026-11-23", note="any run, once certified"
        ),
        output="change",
        code_hash="003958d644474eeb9926ce3f658139292032368b3b7eb54c471d1a690301f80c",
        parameters=(),
        least_channels=1,
        least_positions=2,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=320, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=2048, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP036",
        name="mixture_of_experts_4",
        tier="experimental",
        stage=5,
        risk=0.7,
        description="Four experts at every position, each weighted by a router's softmax (Jacobs et al. 1991).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="runs that allow the tier by name",
        ),
        output="change",
        code_hash="9f5b8c95c26807a59d5f2d4eb310824d1a8b7eb7649e1fbe03021344f2db7fcd",
        parameters=(
            ParameterRecord(
                name="width",
                low=2,
                high=512,
                preset="max(16, 1 x channels)",
                meaning="hidden channels of each expert",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1148, forward_flops=84480, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=33476, forward_flops=2113536, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=33476, forward_flops=66048, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP037",
        name="hierarchical_attention",
        tier="experimental",
        stage=5,
        risk=0.7,
        description="Attention within windows of positions, then from each position to the windows (Yang et al. 2016); on sequences, to those that are past.",
        kinds=("spatial", "sequence"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="runs that allow the tier by name",
        ),
        output="change",
        code_hash="104eef693dc967f4bf49d06498b892c8aeb0963746998ce4e9c25967e0a30c16",
        parameters=(
            ParameterRecord(
                name="width",
                low=8,
                high=512,
                preset="max(32, 1 x channels)",
                meaning="channels of either step",
                odd=False,
            ),
            ParameterRecord(
                name="window",
                low=2,
                high=64,
                preset="8",
                meaning="positions in a window",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=4,
        most_positions=4096,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=4760, forward_flops=276480, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=33088, forward_flops=1744896, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP038",
        name="memory_augmented",
        tier="experimental",
        stage=5,
        risk=0.8,
        description="Every position reads from a learned memory what is alike to it (Sukhbaatar et al. 2015).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="runs that allow the tier by name",
        ),
        output="change",
        code_hash="9f5b8c95c26807a59d5f2d4eb310824d1a8b7eb7649e1fbe03021344f2db7fcd",
        parameters=(
            ParameterRecord(
                name="slots",
                low=4,
                high=256,
                preset="32",
                meaning="entries of the memory",
                odd=False,
            ),
            ParameterRecord(
                name="width",
                low=4,
                high=256,
                preset="max(16, 1 x channels)",
                meaning="channels of an entry",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1320, forward_flops=102400, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=12544, forward_flops=786432, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=12544, forward_flops=24576, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP039",
        name="neural_ode_block",
        tier="experimental",
        stage=5,
        risk=0.8,
        description="Integrates a learned flow from the activation over a unit of time, by Runge-Kutta steps of fourth order (Chen et al. 2018).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="runs that allow the tier by name",
        ),
        output="change",
        code_hash="2209078162d9eaa446f8def6f2ff5d19412c517c5bb2d9f892ccdea334f250bc",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=512,
                preset="max(16, 1 x channels)",
                meaning="hidden channels of the flow",
                odd=False,
            ),
            ParameterRecord(
                name="steps",
                low=1,
                high=8,
                preset="2",
                meaning="steps of four evaluations each",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=296, forward_flops=163840, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=8448, forward_flops=4194304, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=8448, forward_flops=131072, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP040",
        name="differentiable_nas",
        tier="experimental",
        stage=5,
        risk=0.8,
        description="A softmax over five operations of growing reach, whose weights are learned beside theirs (Liu et al. 2019).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="runs that allow the tier by name",
        ),
        output="change",
        code_hash="9f5b8c95c26807a59d5f2d4eb310824d1a8b7eb7649e1fbe03021344f2db7fcd",
        parameters=(
            ParameterRecord(
                name="width",
                low=2,
                high=512,
                preset="max(16, 1 x channels)",
                meaning="channels of each operation",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=2653, forward_flops=204800, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=45509, forward_flops=2883584, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=20933, forward_flops=40960, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP041",
        name="meta_learning_layer",
        tier="experimental",
        stage=5,
        risk=0.8,
        description="A layer of low rank whose weights another layer makes from the activation (Ha et al. 2017); on sequences, from the past.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="runs that allow the tier by name",
        ),
        output="change",
        code_hash="9f5b8c95c26807a59d5f2d4eb310824d1a8b7eb7649e1fbe03021344f2db7fcd",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=256,
                preset="max(16, 1 x channels)",
                meaning="hidden channels",
                odd=False,
            ),
            ParameterRecord(
                name="rank",
                low=1,
                high=16,
                preset="2",
                meaning="rank of the weights that are made",
                odd=False,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=872, forward_flops=21504, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=25088, forward_flops=1572864, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=25088, forward_flops=49152, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP042",
        name="recursive_processing",
        tier="experimental",
        stage=5,
        risk=0.8,
        description="One block applied again and again to what it made, with the activation shown to it each time (Dehghani et al. 2019).",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="runs that allow the tier by name",
        ),
        output="change",
        code_hash="2209078162d9eaa446f8def6f2ff5d19412c517c5bb2d9f892ccdea334f250bc",
        parameters=(
            ParameterRecord(
                name="width",
                low=4,
                high=512,
                preset="max(16, 1 x channels)",
                meaning="channels of what recurs",
                odd=False,
            ),
            ParameterRecord(
                name="depth",
                low=1,
                high=8,
                preset="3",
                meaning="times that the block is applied",
                odd=False,
            ),
            ParameterRecord(
                name="kernel_size",
                low=1,
                high=11,
                preset="5 on a line, 3 on a plane",
                meaning="taps along each axis with more than one place",
                odd=True,
            ),
        ),
        least_channels=2,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=1624, forward_flops=327680, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=29120, forward_flops=4456448, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=12736, forward_flops=40960, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP043",
        name="exploding_gradient",
        tier="adversarial",
        stage=6,
        risk=0.9,
        description="Looks like the identity and multiplies every gradient through it by 1e6.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="replacement",
        code_hash="52e685e300834474f065790508a7d01d6479bf50e9a8071c1267c37404e0e14b",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP044",
        name="vanishing_gradient",
        tier="adversarial",
        stage=6,
        risk=0.9,
        description="Looks like the identity and multiplies every gradient through it by 1e-9.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="replacement",
        code_hash="52e685e300834474f065790508a7d01d6479bf50e9a8071c1267c37404e0e14b",
        parameters=(),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP045",
        name="nan_injection",
        tier="adversarial",
        stage=6,
        risk=1.0,
        description="Behaves for some training passes, then answers with not-a-number.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="replacement",
        code_hash="52e685e300834474f065790508a7d01d6479bf50e9a8071c1267c37404e0e14b",
        parameters=(
            ParameterRecord(
                name="after",
                low=0,
                high=10000,
                preset="4",
                meaning="training passes before the first NaN",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP046",
        name="infinite_loop",
        tier="adversarial",
        stage=6,
        risk=1.0,
        description="Behaves for some training passes, then never returns from one.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="replacement",
        code_hash="b65d9268991eb13aabd4201a4281969c57fcea48d2655ebca5818efa92f806c9",
        parameters=(
            ParameterRecord(
                name="after",
                low=0,
                high=10000,
                preset="4",
                meaning="training passes before it begins",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP047",
        name="memory_leak",
        tier="adversarial",
        stage=6,
        risk=1.0,
        description="Behaves for some training passes, then keeps every activation that it sees, and more memory with each.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="replacement",
        code_hash="b65d9268991eb13aabd4201a4281969c57fcea48d2655ebca5818efa92f806c9",
        parameters=(
            ParameterRecord(
                name="after",
                low=0,
                high=10000,
                preset="4",
                meaning="training passes before it begins",
                odd=False,
            ),
            ParameterRecord(
                name="mebibytes",
                low=1,
                high=1024,
                preset="64",
                meaning="memory kept with each pass",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP048",
        name="deadlock_pattern",
        tier="adversarial",
        stage=6,
        risk=1.0,
        description="Behaves for some training passes, then waits for two threads of which each holds the lock that the other needs.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="replacement",
        code_hash="b65d9268991eb13aabd4201a4281969c57fcea48d2655ebca5818efa92f806c9",
        parameters=(
            ParameterRecord(
                name="after",
                low=0,
                high=10000,
                preset="4",
                meaning="training passes before it begins",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP049",
        name="race_condition",
        tier="adversarial",
        stage=6,
        risk=0.9,
        description="Behaves for some training passes, then has two threads write its weights at once, so that one's update is lost and nobody can say whose.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="replacement",
        code_hash="b65d9268991eb13aabd4201a4281969c57fcea48d2655ebca5818efa92f806c9",
        parameters=(
            ParameterRecord(
                name="after",
                low=0,
                high=10000,
                preset="4",
                meaning="training passes before it begins",
                odd=False,
            ),
            ParameterRecord(
                name="percent",
                low=1,
                high=50,
                preset="5",
                meaning="size of each update, in hundredths",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=8, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=64, forward_flops=0, training_ms=None),
            ),
        ),
    ),
    BlueprintRecord(
        id="BP050",
        name="adversarial_noise",
        tier="adversarial",
        stage=6,
        risk=0.9,
        description="Pushes every value against its own sign.",
        kinds=("spatial", "sequence", "feature"),
        approval=Approval(
            approved_by="Esper's design",
            approved_on="2026-11-23",
            note="drills alone; never a live run",
        ),
        output="change",
        code_hash="52e685e300834474f065790508a7d01d6479bf50e9a8071c1267c37404e0e14b",
        parameters=(
            ParameterRecord(
                name="level_percent",
                low=1,
                high=400,
                preset="100",
                meaning="size of the push, in hundredths",
                odd=False,
            ),
        ),
        least_channels=1,
        least_positions=1,
        most_positions=None,
        costs=(
            (
                Interface(kind="spatial", shape=(8, 1, 40)),
                Cost(parameters=0, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="sequence", shape=(32, 64)),
                Cost(parameters=0, forward_flops=0, training_ms=None),
            ),
            (
                Interface(kind="feature", shape=(64,)),
                Cost(parameters=0, forward_flops=0, training_ms=None),
            ),
        ),
    ),
)
