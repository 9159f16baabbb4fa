"""The rules of the house, as tests."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from exchange.gateway.v1 import order_gateway_pb2  # noqa: F401 - fails here where the protos are not compiled

from cli import configuration, definitions, openapi
from cli.main import cli
from libs.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
CODE = sorted(path for folder in ("services", "libs", "cli") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FUNCTION_MAX_LINES = 70
FILE_MAX_LINES = 400
PLACES = re.compile(r"\b(utils|helpers|common|misc)\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_files_and_functions_fit_in_a_head(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_MAX_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", [*CODE, *TESTS, *(ROOT / "protos").rglob("*.proto")], ids=name_of)
def test_nothing_is_left_to_do(path: Path) -> None:
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
    assert not [word for word in words if word in path.read_text()]


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_no_file_is_a_place_where_things_are_put(path: Path) -> None:
    assert not PLACES.search(path.stem)


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_an_ignored_type_says_why(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if "type: ignore" in line:
            assert re.search(r"type: ignore\[[a-z-]+\]  # \S", line), f"line {number}"


def test_every_reason_is_documented_and_used() -> None:
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
    assert documented == {reason.name for reason in Reason if reason}
    code = "\n".join(path.read_text() for path in CODE if path.name != "reasons.py")
    assert not [name for name in documented if f"Reason.{name}" not in code]


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    wanted = {re.split(r"[\[<>=~ ]", name)[0] for name in names}
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert set(re.findall(r"^\| ([A-Za-z0-9-]+) \| \S", text, re.MULTILINE)) - {"Package"} == wanted


def test_the_image_installs_what_is_tested() -> None:
    pin = re.compile(r"^([a-zA-Z0-9_.-]+==[^ ;]+)", re.MULTILINE)
    runtime = set(pin.findall((ROOT / "requirements-runtime.lock").read_text()))
    assert len(runtime) > 30
    assert runtime < set(pin.findall((ROOT / "requirements.lock").read_text()))


@pytest.mark.parametrize(("name", "least"), [("requirements.lock", 50), ("requirements-runtime.lock", 30)])
def test_the_lock_files_name_no_registry_and_have_hashes(name: str, least: int) -> None:
    lock = (ROOT / name).read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    pins = re.findall(r"^[a-zA-Z0-9_.-]+==\S+", lock, re.MULTILINE)
    assert len(pins) > least
    assert all(f"{pin.split(';')[0].strip()}" in lock for pin in pins)
    assert lock.count("--hash=sha256:") >= len(pins)


@pytest.mark.parametrize("name", ["Makefile", "deploy/Dockerfile"])
def test_only_what_is_pinned_is_installed(name: str) -> None:
    """Without `--no-deps` pip looks for `coverage[toml]` beside the pinned `coverage`, finds a newer one and gives up."""
    text = (ROOT / name).read_text()
    assert text.count("-r requirements") == text.count("--no-deps --require-hashes -r requirements") > 0


def test_what_is_pinned_is_all_that_is_needed() -> None:
    check = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert check.returncode == 0, check.stdout


DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_commands_in_the_documentation_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text()
    code = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code)) <= targets
    for command in re.findall(r"\btrade-engine ([a-z]+)", code):
        assert command in cli.commands


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_links_in_the_documentation_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_command_and_option_has_help() -> None:
    def check(command: click.Command, name: str) -> None:
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "version":
                assert parameter.help, f"{name} {parameter.name}"
        if isinstance(command, click.Group):
            for child_name, child in command.commands.items():
                check(child, f"{name} {child_name}")

    check(cli, "trade-engine")


def test_the_api_documents_are_those_of_the_protos() -> None:
    for path, text in openapi.texts().items():
        assert path.read_text() == text, "run `make openapi`"


def test_the_broker_definitions_are_those_of_the_code() -> None:
    assert definitions.PATH.read_text() == definitions.text(), "run `make definitions`"


def test_the_pages_about_settings_are_those_of_the_code() -> None:
    assert configuration.REFERENCE.read_text() == configuration.reference(), "run `make configuration`"
    assert configuration.EXAMPLE.read_text() == configuration.example(), "run `make configuration`"


def test_every_room_is_in_the_import_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    exhaustive = {
        container for contract in contracts if contract.get("exhaustive") for container in contract["containers"]
    }
    services = {f"services.{path.name}" for path in (ROOT / "services").iterdir() if (path / "__main__.py").exists()}
    assert exhaustive == services
