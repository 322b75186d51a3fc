"""What was released stays readable: every field and enum value of it, whatever is done to it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from esper_async.leyline import generate
from esper_async.leyline.compatibility import breaking_changes

ADDED_SINCE_THE_RELEASE = [
    "esper.leyline.v1.DecisionRecord.choices (field 17) is gone",
    "esper.leyline.v1.DecisionRecord.placements (field 16) is gone",
    "esper.leyline.v1.FieldReport.compute_ratio (field 22) is gone",
    "esper.leyline.v1.FieldReport.parameter_ratio (field 21) is gone",
    "esper.leyline.v1.FieldReport.stage (field 20) is gone",
    "esper.leyline.v1.KernelRequest.batch (field 11) is gone",
    "esper.leyline.v1.KernelRequest.threads (field 12) is gone",
    "message esper.leyline.v1.ChoiceSet is gone",
    "message esper.leyline.v1.PlacementFeatures is gone",
]
"""What the protos have beyond the released set; `generate --release` takes it in."""

UNUSED = 9_999


def _released() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(generate.RELEASED.read_bytes())


def _current() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(generate.descriptor_set())


def test_nothing_released_is_broken() -> None:
    assert breaking_changes(_released(), _current()) == []


def test_the_released_set_holds_everything_but_what_is_named_as_newer() -> None:
    """Seen from the present protos, what the released set lacks is gone."""
    assert breaking_changes(_current(), _released()) == ADDED_SINCE_THE_RELEASE


def _with_nested(message: DescriptorProto) -> Iterator[DescriptorProto]:
    yield message
    for nested in message.nested_type:
        yield from _with_nested(nested)


def _messages(file: FileDescriptorProto) -> list[DescriptorProto]:
    return [each for message in file.message_type for each in _with_nested(message)]


def _another_type(field: FieldDescriptorProto, _: DescriptorProto) -> None:
    is_bytes = field.type == FieldDescriptorProto.TYPE_BYTES
    field.type = FieldDescriptorProto.TYPE_STRING if is_bytes else FieldDescriptorProto.TYPE_BYTES


def _as_repeated(field: FieldDescriptorProto, _: DescriptorProto) -> None:
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    field.label = (
        FieldDescriptorProto.LABEL_OPTIONAL if repeated else FieldDescriptorProto.LABEL_REPEATED
    )


def _with_other_presence(field: FieldDescriptorProto, message: DescriptorProto) -> None:
    """Presence, or the choice it is part of, is another."""
    if field.HasField("oneof_index"):
        field.ClearField("oneof_index")
    else:
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name="either")


DAMAGES: dict[str, Callable[[FieldDescriptorProto, DescriptorProto], object]] = {
    "removed": lambda field, message: message.field.remove(field),
    "renumbered": lambda field, _: setattr(field, "number", UNUSED),
    "renamed": lambda field, _: setattr(field, "name", "another"),
    "retyped": _another_type,
    "repeated or no longer": _as_repeated,
    "presence": _with_other_presence,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_done_to_any_released_field_is_found_and_named(damage: str) -> None:
    fields = 0
    for file in _released().file:
        whole = FileDescriptorSet(file=[file])
        for place, message in enumerate(_messages(file)):
            for number in range(len(message.field)):
                changed = FileDescriptorSet(file=[file])
                damaged = _messages(changed.file[0])[place]
                DAMAGES[damage](damaged.field[number], damaged)
                found = breaking_changes(whole, changed)
                assert len(found) == 1, (message.name, message.field[number].name)
                assert f"{message.name}.{message.field[number].name} (field" in found[0]
                fields += 1
    assert fields > 300


def test_any_released_enum_value_that_moves_or_goes_is_found_and_named() -> None:
    values = 0
    for file in _released().file:
        whole = FileDescriptorSet(file=[file])
        for place, enum in enumerate(file.enum_type):
            for number, value in enumerate(enum.value):
                for damage in (_move_value, _remove_value, _rename_value):
                    changed = FileDescriptorSet(file=[file])
                    damage(changed.file[0].enum_type[place], number)
                    (found,) = breaking_changes(whole, changed)
                    assert f"{enum.name}.{value.name} was {value.number}" in found
                values += 1
    assert values > 100


def _move_value(enum: EnumDescriptorProto, number: int) -> None:
    enum.value[number].number = UNUSED


def _remove_value(enum: EnumDescriptorProto, number: int) -> None:
    del enum.value[number]


def _rename_value(enum: EnumDescriptorProto, number: int) -> None:
    enum.value[number].name = "ANOTHER"


def test_a_message_or_an_enum_that_is_gone_is_named() -> None:
    for file in _released().file:
        changed = FileDescriptorSet(file=[file])
        del changed.file[0].message_type[:]
        del changed.file[0].enum_type[:]
        found = breaking_changes(FileDescriptorSet(file=[file]), changed)
        for each in _messages(file):
            assert any(line.endswith(f".{each.name} is gone") for line in found)
        for enum in file.enum_type:
            assert f"enum {file.package}.{enum.name} is gone" in found


def test_what_is_appended_breaks_nothing() -> None:
    changed = _released()
    for file in changed.file:
        for message in _messages(file):
            message.field.add(name="later", number=UNUSED, type=FieldDescriptorProto.TYPE_STRING)
        for enum in file.enum_type:
            enum.value.add(name="LATER", number=UNUSED)
        file.message_type.add(name="Later")
    assert breaking_changes(_released(), changed) == []


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where `--release` writes here, which holds nothing yet."""
    target = tmp_path / "released.binpb"
    monkeypatch.setattr(generate, "RELEASED", target)
    return target


def test_a_release_takes_in_what_was_added(pinned: Path) -> None:
    assert generate.main(["--release"]) == 0
    present = pinned.read_bytes()
    older = FileDescriptorSet.FromString(present)
    envelope = next(file for file in older.file if file.name.endswith("envelope.proto"))
    del envelope.message_type[0].field[-1]
    pinned.write_bytes(older.SerializeToString())
    assert generate.main(["--release"]) == 0
    assert pinned.read_bytes() == present


def test_a_release_that_breaks_something_is_refused_with_names_and_writes_nothing(
    pinned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released = _current()
    envelope = next(file for file in released.file if file.name.endswith("envelope.proto"))
    envelope.message_type[0].field[0].number = UNUSED
    before = released.SerializeToString()
    pinned.write_bytes(before)
    assert generate.main(["--release"]) == 1
    assert pinned.read_bytes() == before
    told = capsys.readouterr().err
    assert f"EventEnvelope.version (field {UNUSED}) is gone" in told
    assert "append" in told
