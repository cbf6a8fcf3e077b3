"""The messages of Envoy's external authorization and of gRPC's health checks, as far as they are read and written here.

Described by tables instead of generated code: names and numbers are those of `envoy/service/auth/v3`,
`envoy/config/core/v3`, `google/rpc` and `grpc/health/v1`, and fields that are not here are passed over, as protobuf has
it. They live in a pool of their own, so that they meet no other description of the same names in one process.
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
}
_REPEATED: Final = "repeated "
_MAP: Final = "map"

AUTH: Final = "envoy.service.auth.v3"
_CORE: Final = "envoy.config.core.v3"

# Package, then message, then field: its number and its type. A `map` is of strings to strings.
_TABLES: Final[Mapping[str, Mapping[str, Mapping[str, tuple[int, str]]]]] = {
    "google.rpc": {"Status": {"code": (1, "int32"), "message": (2, "string")}},
    # Enumerations are numbers on the wire.
    "envoy.type.v3": {"HttpStatus": {"code": (1, "int32")}},
    _CORE: {
        "HeaderValue": {"key": (1, "string"), "value": (2, "string"), "raw_value": (3, "bytes")},
        "HeaderMap": {"headers": (1, f"repeated {_CORE}.HeaderValue")},
        "HeaderValueOption": {"header": (1, f"{_CORE}.HeaderValue"), "append_action": (3, "int32")},
    },
    AUTH: {
        "HttpRequest": {
            "id": (1, "string"),
            "method": (2, "string"),
            "headers": (3, _MAP),
            "path": (4, "string"),
            "host": (5, "string"),
            "scheme": (6, "string"),
            "query": (7, "string"),
            "fragment": (8, "string"),
            "size": (9, "int64"),
            "protocol": (10, "string"),
            "body": (11, "string"),
            "raw_body": (12, "bytes"),
            "header_map": (13, f"{_CORE}.HeaderMap"),
        },
        "Request": {"http": (2, f"{AUTH}.HttpRequest")},
        "AttributeContext": {"request": (4, f"{AUTH}.Request")},
        "CheckRequest": {"attributes": (1, f"{AUTH}.AttributeContext")},
        "DeniedHttpResponse": {
            "status": (1, "envoy.type.v3.HttpStatus"),
            "headers": (2, f"repeated {_CORE}.HeaderValueOption"),
            "body": (3, "string"),
        },
        "OkHttpResponse": {
            "headers": (2, f"repeated {_CORE}.HeaderValueOption"),
            "headers_to_remove": (5, "repeated string"),
        },
        "CheckResponse": {
            "status": (1, "google.rpc.Status"),
            "denied_response": (2, f"{AUTH}.DeniedHttpResponse"),
            "ok_response": (3, f"{AUTH}.OkHttpResponse"),
            "dynamic_metadata": (4, "google.protobuf.Struct"),
        },
    },
    "grpc.health.v1": {
        "HealthCheckRequest": {"service": (1, "string")},
        "HealthCheckResponse": {"status": (1, "int32")},
    },
}


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    files = [struct_pb2.DESCRIPTOR.name]
    for package, messages in _TABLES.items():
        file = descriptor_pb2.FileDescriptorProto(
            name=f"{package}.proto", package=package, syntax="proto3", dependency=files
        )
        for name, fields in messages.items():
            message = file.message_type.add(name=name)
            for field, (number, kind) in fields.items():
                _add(message, field, number, kind, package)
        pool.Add(file)
        files.append(file.name)
    return pool


def _add(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, package: str) -> None:
    label = _Field.LABEL_REPEATED if kind.startswith(_REPEATED) or kind == _MAP else _Field.LABEL_OPTIONAL
    kind = kind.removeprefix(_REPEATED)
    if kind == _MAP:
        # How protobuf itself describes a map: repeated entries of a nested message.
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        for at, member in enumerate(("key", "value"), start=1):
            entry.field.add(name=member, number=at, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        kind = f"{package}.{message.name}.{entry.name}"
    if kind in _SCALARS:
        message.field.add(name=name, number=number, label=label, type=_SCALARS[kind])
    else:
        message.field.add(name=name, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=f".{kind}")


_POOL: Final = _pool()


def _class(name: str) -> Any:
    """What protobuf makes of a description; its members are known at run time alone."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


CheckRequest: Final = _class(f"{AUTH}.CheckRequest")
CheckResponse: Final = _class(f"{AUTH}.CheckResponse")
HealthCheckRequest: Final = _class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse: Final = _class("grpc.health.v1.HealthCheckResponse")
