"""`trade-engine config`, and the pages that are made from the settings: docs/configuration.md, config/config.example.yaml.

`python -m cli.configuration` writes both.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from rich.table import Table

from cli.output import json_option, print_table
from libs.config import Section, Settings, load_settings

_ROOT = Path(__file__).resolve().parents[1]
REFERENCE = _ROOT / "docs" / "configuration.md"
EXAMPLE = _ROOT / "config" / "config.example.yaml"
MASK = "********"
_DATA_DIR = Settings.model_fields["data_dir"]
_HEAD, _RULE = "| Setting | Variable | Default | Meaning |", "|---|---|---|---|"
_INTRODUCTION = """# Configuration

Made from `libs/config.py` by `make configuration`; do not edit.

Every setting has a default. A YAML file, named by `TRADE_ENGINE_CONFIG`, changes it
([an example with all of them](../config/config.example.yaml)); an environment variable goes before the file. In the file
`${NAME}` and `${NAME:default}` stand for environment variables. A setting marked *secret* may also stand in a file of its
own, as secret stores mount them: its variable with `_FILE` at the end names that file. Wrong or unknown settings stop the
start with every problem listed (exit code 78). `trade-engine config check` only looks; `trade-engine config show` prints
what holds, secrets masked.
"""


@click.group("config")
def config() -> None:
    """Look at the settings."""


@config.command()
def check() -> None:
    """Tell whether the settings are usable; exits 78 and lists every problem where they are not."""
    load_settings()
    click.echo("the configuration is usable")


@config.command()
@json_option
def show(as_json: bool) -> None:
    """Print the settings that hold, secrets masked."""
    settings = load_settings()
    shown: dict[str, Any] = {"data_dir": str(settings.data_dir)}
    for name, _, _ in _sections():
        section: BaseModel = getattr(settings, name)
        shown[name] = {key: _masked(getattr(section, key)) for key in type(section).model_fields}
    if as_json:
        click.echo(json.dumps(shown))
        return
    table = Table("setting", "value")
    table.add_row("data_dir", shown["data_dir"])
    for name, _, _ in _sections():
        for key, value in shown[name].items():
            table.add_row(f"{name}.{key}", str(value))
    print_table(table)


def reference() -> str:
    """The contents of docs/configuration.md."""
    lines = [_INTRODUCTION]
    lines += [_HEAD, _RULE, f"| `data_dir` | `TRADE_ENGINE_DATA_DIR` | `var` | {_DATA_DIR.description} |"]
    for name, title, fields in _sections():
        lines += ["", f"## {name}", "", title, "", _HEAD, _RULE]
        for key, field in fields.items():
            variable = f"TRADE_ENGINE_{name}_{key}".upper()
            meaning = f"{field.description}{_range(field)}{' *secret*' if field.annotation is SecretStr else ''}"
            lines.append(f"| `{name}.{key}` | `{variable}` | {_default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def example() -> str:
    """The contents of config/config.example.yaml: every setting with its default, secrets from the environment."""
    title = "# Every setting with its default; what is left out keeps it. Made by `make configuration`."
    lines = [title, f"# {_DATA_DIR.description}", "data_dir: var"]
    for name, title, fields in _sections():
        lines += ["", f"# {title}", f"{name}:"]
        for key, field in fields.items():
            lines.append(f"  # {field.description}{_range(field)}")
            if field.annotation is SecretStr:
                value = f'"${{{name.upper()}_{key.upper()}:}}"'
            else:
                default = field.default
                value = json.dumps(str(default) if isinstance(default, Path) else default)
            lines.append(f"  {key}: {value}")
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, str, dict[str, FieldInfo]]]:
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield name, (kind.__doc__ or "").strip(), kind.model_fields


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, SecretStr) or field.default in {"", None}:
        return "empty"
    return f"`{json.dumps(field.default)}`" if not isinstance(field.default, str) else f"`{field.default}`"


def _range(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{words[name]} {getattr(item, name):g}"
        for item in field.metadata
        for name in words
        if hasattr(item, name)
    ]  # fmt: skip
    return f" ({', '.join(bounds)})" if bounds else ""


def _masked(value: object) -> object:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
    EXAMPLE.parent.mkdir(exist_ok=True)
    EXAMPLE.write_text(example(), encoding="utf-8")
