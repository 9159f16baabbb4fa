"""Writes deploy/rabbitmq/definitions.json from the topology: `python -m cli.definitions`."""

import json
from pathlib import Path

from libs.bus.topology import definitions

PATH = Path(__file__).resolve().parents[1] / "deploy" / "rabbitmq" / "definitions.json"


def text() -> str:
    """The file's contents: quorum queues, as compose and Kubernetes have them."""
    return json.dumps(definitions(quorum=True), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(PATH)
