"""Writes docs/openapi.json from the protos: `python -m cli.openapi`."""

import json
from importlib.metadata import version
from pathlib import Path

from services.edge.backends import SERVICES
from services.edge.openapi import openapi
from services.edge.routes import RouteTable

PATH = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"


def text() -> str:
    """The file's contents, which the edge serves at /openapi.json, too."""
    return json.dumps(openapi(RouteTable(SERVICES), version=version("trade-engine")), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(PATH)
