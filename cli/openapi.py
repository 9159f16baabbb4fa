"""Writes docs/openapi.json and docs/asyncapi.json from the protos: `python -m cli.openapi`."""

import json
from importlib.metadata import version
from pathlib import Path

from services.edge.asyncapi import asyncapi
from services.edge.backends import SERVICES
from services.edge.openapi import openapi
from services.edge.routes import RouteTable

DOCS = Path(__file__).resolve().parents[1] / "docs"


def texts() -> dict[Path, str]:
    """The files' contents, which the edge serves under the same names, too."""
    engine = version("trade-engine")
    documents = {
        "openapi.json": openapi(RouteTable(SERVICES), version=engine),
        "asyncapi.json": asyncapi(version=engine),
    }
    return {DOCS / name: json.dumps(document, indent=1) + "\n" for name, document in documents.items()}


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
        print(path)
