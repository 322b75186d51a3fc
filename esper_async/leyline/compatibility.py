"""Find what a change of the protos would break for those who hold the released ones."""

from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)


def breaking_changes(released: FileDescriptorSet, current: FileDescriptorSet) -> list[str]:
    """Describe every removed, renamed, renumbered or retyped part of `released`; empty if none."""
    old_enums, new_enums = dict(_enums(released)), dict(_enums(current))
    old_messages, new_messages = dict(_messages(released)), dict(_messages(current))
    found = [f"enum {name} is gone" for name in old_enums.keys() - new_enums.keys()]
    found += [f"message {name} is gone" for name in old_messages.keys() - new_messages.keys()]
    for name in old_enums.keys() & new_enums.keys():
        found += _enum_changes(name, old_enums[name], new_enums[name])
    for name in old_messages.keys() & new_messages.keys():
        found += _message_changes(name, old_messages[name], new_messages[name])
    return sorted(found)


def _enums(files: FileDescriptorSet) -> Iterator[tuple[str, EnumDescriptorProto]]:
    return ((f"{file.package}.{enum.name}", enum) for file in files.file for enum in file.enum_type)


def _messages(files: FileDescriptorSet) -> Iterator[tuple[str, DescriptorProto]]:
    for file in files.file:
        for message in file.message_type:
            yield from _with_nested(f"{file.package}.{message.name}", message)


def _with_nested(name: str, message: DescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    yield name, message
    for nested in message.nested_type:
        yield from _with_nested(f"{name}.{nested.name}", nested)


def _enum_changes(name: str, old: EnumDescriptorProto, new: EnumDescriptorProto) -> list[str]:
    numbers = {value.name: value.number for value in new.value}
    return [
        f"{name}.{value.name} was {value.number}, is {numbers.get(value.name, 'gone')}"
        for value in old.value
        if numbers.get(value.name) != value.number
    ]


def _shape(field: FieldDescriptorProto, message: DescriptorProto) -> tuple[object, ...]:
    """What must stay as it is: name, type, cardinality, presence and the oneof it is part of."""
    union = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return field.name, field.type, field.type_name, field.label, field.proto3_optional, union


def _message_changes(name: str, old: DescriptorProto, new: DescriptorProto) -> list[str]:
    fields = {field.number: field for field in new.field}
    found = []
    for field in old.field:
        successor = fields.get(field.number)
        if successor is None:
            found.append(f"{name}.{field.name} (field {field.number}) is gone")
        elif _shape(successor, new) != _shape(field, old):
            found.append(f"{name}.{field.name} (field {field.number}) means something else")
    return found
