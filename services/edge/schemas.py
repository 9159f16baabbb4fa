"""JSON schemas of the protos' messages, with the comments that stand beside them."""

import importlib.resources
import re
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

Schema = dict[str, Any]

# How proto3 JSON writes the well-known types.
WELL_KNOWN: Final[dict[str, Schema]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
}
_SCALARS: Final[dict[int, Schema]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
}


class Schemas:
    """Makes the schema of a message when it is first needed; `components` are those that were made."""

    def __init__(self, known: dict[str, Schema] | None = None) -> None:
        self.components: dict[str, Schema] = dict(known or {})
        self.comments = _comments()
        self._names: dict[str, str] = {}

    def message(self, message: Descriptor) -> Schema:
        """A reference to a message's schema."""
        if message.full_name in WELL_KNOWN:
            return WELL_KNOWN[message.full_name]
        name = self._name(message)
        if name not in self.components:
            self.components[name] = {}  # so that a message may contain itself
            self.components[name] = self.object(message, message.fields)
        return ref(name)

    def object(self, message: Descriptor, fields: Iterable[FieldDescriptor]) -> Schema:
        """The schema of some of a message's fields."""
        properties = {}
        for field in fields:
            schema, text = self.field(field), self.comments.get(field.full_name, "")
            properties[field.json_name] = {**schema, "description": text} if text else schema
        text = self.comments.get(message.full_name, "")
        return {"type": "object", **({"description": text} if text else {}), "properties": properties}

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field."""
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(field.message_type.fields_by_name["value"])}
        one = self._one(field)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return _SCALARS[field.type]

    def _enum(self, enum: EnumDescriptor) -> Schema:
        name = self._name(enum)
        if name not in self.components:
            told = [
                f"- `{value.name}`: {self.comments.get(f'{enum.full_name}.{value.name}', '')}" for value in enum.values
            ]
            text = "\n".join([self.comments.get(enum.full_name, ""), "", *told])
            self.components[name] = {"type": "string", "enum": [item.name for item in enum.values], "description": text}
        return ref(name)

    def _name(self, thing: Descriptor | EnumDescriptor) -> str:
        """The short name; where two packages have it, the later one's says which it is."""
        name = self._names.get(thing.full_name)
        if name is None:
            name = thing.name
            if name in self._names.values():
                name = "".join(part.title() for part in thing.full_name.split(".")[1:2]) + name
            self._names[thing.full_name] = name
        return name


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def _comments() -> dict[str, str]:
    """Every comment of the contracts by the full name of what it stands at."""
    data = (importlib.resources.files("exchange") / "contracts.binpb").read_bytes()
    comments: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(data).file:
        if file.package.startswith("exchange."):
            for location in file.source_code_info.location:
                name = _name_at(file, list(location.path))
                text = location.leading_comments.strip()
                if name and text:
                    comments[name] = re.sub(r"\n\s*\n", "\n\n", re.sub(r"(?m)^ ", "", text))
    return comments


def _name_at(file: FileDescriptorProto, path: list[int]) -> str:
    """The full name of what a path of descriptor.proto's SourceCodeInfo leads to; empty for what has none."""
    names: list[str] = [file.package]
    thing: Any = file
    while path:
        number, *rest = path
        field = thing.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.message_type is None or not field.is_repeated or not rest:
            return ""
        thing = getattr(thing, field.name)[rest[0]]
        if not hasattr(thing, "name") or isinstance(thing, str):
            return ""
        names.append(thing.name)
        path = rest[1:]
    return ".".join(names) if len(names) > 1 else ""
