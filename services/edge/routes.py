"""Routes from the protos: every RPC with a `google.api.http` annotation becomes a path, without code of its own.

The rules are those of google/api/http.proto, as far as annotations here use them: `{field}` and `{field=*}` in paths, a
`:verb` at the end, `body: "*"`, additional bindings; what is not in path or body comes from the query.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from libs.rpc.access import AccessRule, access_rule

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=\*)?\}")
_VERBS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, slots=True)
class Route:
    """One way to call one RPC."""

    verb: str
    template: str
    pattern: re.Pattern[str]
    method: MethodDescriptor
    body: str
    rule: AccessRule

    @property
    def rpc_path(self) -> str:
        """The method's path on the wire."""
        service = self.method.containing_service
        return f"/{service.full_name}/{self.method.name}"


@dataclass(frozen=True, slots=True)
class Match:
    """A route and the values of its path variables."""

    route: Route
    variables: dict[str, str]


class RouteTable:
    """All routes of the given services."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        self.routes = [route for service in services for method in service.methods for route in _routes(method)]
        # The more literal of two templates that both match comes first.
        self.routes.sort(key=lambda route: (len(_VARIABLE.findall(route.template)), -len(route.template)))

    def find(self, verb: str, raw_path: str) -> Match | None:
        """The route of a request. The path is still percent-encoded, so that `BTC%2FUSDT` is one segment."""
        for route in self.routes:
            if route.verb == verb:
                match = route.pattern.fullmatch(raw_path)
                if match is not None:
                    variables = {name.replace("__", "."): unquote(value) for name, value in match.groupdict().items()}
                    return Match(route, variables)
        return None

    def verbs(self, raw_path: str) -> list[str]:
        """What could be done at this path."""
        return sorted({route.verb for route in self.routes if route.pattern.fullmatch(raw_path)})


def _routes(method: MethodDescriptor) -> list[Route]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return []
    rule = options.Extensions[annotations_pb2.http]
    return [_route(method, binding) for binding in (rule, *rule.additional_bindings)]


def _route(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Route:
    verb = rule.WhichOneof("pattern")
    assert verb in _VERBS, f"{method.full_name}: only plain HTTP methods are annotated here"
    template = str(getattr(rule, verb))
    return Route(verb.upper(), template, _pattern(template), method, rule.body, access_rule(method))


def _pattern(template: str) -> re.Pattern[str]:
    parts = _VARIABLE.split(template)
    text = "".join(
        re.escape(part) if number % 2 == 0 else f"(?P<{part.replace('.', '__')}>[^/]+?)"
        for number, part in enumerate(parts)
    )
    return re.compile(text)
