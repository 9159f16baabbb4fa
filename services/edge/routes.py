"""Routes from the protos: every RPC with a `google.api.http` annotation becomes a path, without code of its own.

The rules are those of google/api/http.proto: `*`, `**`, `{field}`, `{field=pattern}` and a `:verb` at the end of paths;
`body` of all fields or of one; `response_body`; additional bindings. What is not in path or body comes from the query.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from libs.rpc.access import AccessRule, access_rule

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]+))?\}")
_WILDCARD = re.compile(r"(\*\*|\*)")
_VERBS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, slots=True)
class Route:
    """One way to call one RPC."""

    verb: str
    template: str
    pattern: re.Pattern[str]
    method: MethodDescriptor
    body: str
    response_body: str
    rule: AccessRule
    variables: tuple[str, ...]

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
        self.routes.sort(key=lambda route: (len(route.variables), -len(route.template)))

    def find(self, verb: str, raw_path: str) -> Match | None:
        """The route of a request. The path is still percent-encoded, so that `BTC%2FUSDT` is one segment."""
        for route in self.routes:
            if route.verb == verb:
                match = route.pattern.fullmatch(raw_path)
                if match is not None:
                    values = zip(route.variables, match.groups(), strict=True)
                    return Match(route, {name: _decoded(route, name, value) for name, value in values})
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
    pattern, variables = _pattern(template)
    return Route(verb.upper(), template, pattern, method, rule.body, rule.response_body, access_rule(method), variables)


def _pattern(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    text, variables, place = "", [], 0
    for variable in _VARIABLE.finditer(template):
        text += _segments(template[place : variable.start()])
        text += f"({_segments(variable[2] or '*')})"
        variables.append(variable[1])
        place = variable.end()
    return re.compile(text + _segments(template[place:])), tuple(variables)


def _segments(text: str) -> str:
    """A part of a template without variables. `*` is one segment, `**` any number of them; neither reaches into a verb."""
    wildcards = {"*": "[^/]+?", "**": ".*?"}
    return "".join(wildcards.get(part) or re.escape(part) for part in _WILDCARD.split(text))


def _decoded(route: Route, name: str, value: str) -> str:
    """A variable of several segments keeps %2F, so that its own slashes can be told from those between segments."""
    several = re.search(rf"\{{{re.escape(name)}=[^}}]*(/|\*\*)", route.template) is not None
    return "%2F".join(map(unquote, re.split("%2[fF]", value))) if several else unquote(value)
