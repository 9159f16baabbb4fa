"""The documents tell of everything that the code knows."""

import json
from typing import Any

from cli.openapi import texts
from services.edge import account, sockets, trading
from services.edge.backends import SERVICES
from services.edge.feeds import VIEWS
from services.edge.routes import RouteTable

OPENAPI, ASYNCAPI = (json.loads(text) for text in texts().values())


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []


def test_every_reference_leads_somewhere() -> None:
    for document in (OPENAPI, ASYNCAPI):
        for reference in references(document):
            place = document
            for part in reference.removeprefix("#/").split("/"):
                place = place[part]
            assert place


def test_every_route_is_documented_with_what_it_is_for() -> None:
    for route in RouteTable(SERVICES).routes:
        operation = OPENAPI["paths"][route.template][route.verb.lower()]
        assert len(operation["description"]) > 20, route.template
        assert {"200", "400", "429", "500", "503"} <= operation["responses"].keys()


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for path in OPENAPI["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_the_socket_document_has_every_operation_and_channel() -> None:
    messages = ASYNCAPI["components"]["messages"].keys()
    assert set(sockets._OPERATIONS) <= messages
    assert trading.OPERATIONS.keys() | VIEWS.keys() | account.CHANNELS.keys() <= messages
    depths = ASYNCAPI["components"]["messages"]["subscribe"]["payload"]["properties"]["depth"]["enum"]
    assert tuple(depths) == sockets.DEPTHS
