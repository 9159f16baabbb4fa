"""`/openapi.json`, `/asyncapi.json`, and `/docs`: the first as a page to read and to try, without the internet."""

import importlib.resources
import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from libs.version import VERSION
from services.edge.asyncapi import asyncapi
from services.edge.middleware import SECURITY_HEADERS
from services.edge.openapi import openapi
from services.edge.routes import RouteTable

# Swagger UI draws with inline styles and images of its own; scripts come from here alone.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_HEADERS = {**SECURITY_HEADERS, "cache-control": "no-cache", "content-security-policy": _POLICY}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Trade Engine API</title>
<link rel="stylesheet" href="/docs/files/swagger-ui.css">
<link rel="icon" href="/docs/files/favicon-32x32.png">
</head>
<body>
<div id="page"></div>
<script src="/docs/files/swagger-ui-bundle.js"></script>
<script src="/docs/begin.js"></script>
</body>
</html>
"""
_BEGIN = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  tryItOutEnabled: true,
  persistAuthorization: false,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


def pages(table: RouteTable) -> list[BaseRoute]:
    """The routes of both."""
    return [
        _fixed("/openapi.json", json.dumps(openapi(table, version=VERSION)).encode(), "application/json"),
        _fixed("/asyncapi.json", json.dumps(asyncapi(version=VERSION)).encode(), "application/json"),
        _fixed("/docs", _PAGE.encode(), "text/html"),
        _fixed("/docs/begin.js", _BEGIN.encode(), "text/javascript"),
        Mount("/docs/files", StaticFiles(directory=str(importlib.resources.files("swagger_ui") / "static"))),
    ]


def _fixed(path: str, content: bytes, media_type: str) -> Route:
    async def answer(request: Request) -> Response:
        del request
        return Response(content, media_type=media_type, headers=_HEADERS)

    return Route(path, answer)
