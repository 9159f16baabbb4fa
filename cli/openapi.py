"""Writes docs/openapi.json and docs/asyncapi.json from the protos: `python -m cli.openapi`."""

import json
from pathlib import Path

from libs.version import VERSION
from services.edge.asyncapi import asyncapi
from services.edge.backends import SERVICES
from services.edge.openapi import openapi
from services.edge.routes import RouteTable

DOCS = Path(__file__).resolve().parents[1] / "docs"


def texts() -> dict[Path, str]:
    """The files' contents, which the edge serves under the same names, too."""
    documents = {
        "openapi.json": openapi(RouteTable(SERVICES), version=VERSION),
        "asyncapi.json": asyncapi(version=VERSION),
    }
    return {DOCS / name: json.dumps(document, indent=1) + "\n" for name, document in documents.items()}


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
        print(path)
