"""The matching core as it was compiled, and as Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libs.compiled import ROOT, SOURCES, compiled_folder

pytestmark = pytest.mark.skipif(
    not compiled_folder().is_dir(), reason="nothing is compiled (no C compiler or no Python headers)"
)
MODULES = [source.removesuffix(".py").replace("/", ".") for source in SOURCES]
WHERE = f"""
import importlib
for name in {MODULES!r}:
    print(importlib.import_module(name).__file__)
"""


def python(*arguments: str, pure: bool) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PURE_PYTHON": "1" if pure else ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_what_is_compiled_is_used_unless_python_is_asked_for() -> None:
    for pure, suffix in ((False, ".so"), (True, ".py")):
        done = python("-c", WHERE, pure=pure)
        files = [Path(line) for line in done.stdout.splitlines()]
        assert [file.suffix for file in files] == [suffix] * len(MODULES), done.stderr


def test_what_was_compiled_from_other_sources_or_for_another_python_is_not_used(tmp_path: Path) -> None:
    program = f"""
import pathlib, libs.compiled
root = pathlib.Path({str(tmp_path)!r})
for source in libs.compiled.SOURCES:
    (root / source).parent.mkdir(parents=True, exist_ok=True)
    (root / source).write_bytes((libs.compiled.ROOT / source).read_bytes())
before = libs.compiled.compiled_folder().name
libs.compiled.ROOT = root
assert libs.compiled.compiled_folder().name == before
libs.compiled.TAG = "cpython-399"
assert libs.compiled.compiled_folder().name != before
libs.compiled.TAG = before.partition("-")[2]
with (root / "libs/money.py").open("a") as file:
    file.write("# edited")
path = ["here"]
libs.compiled.prefer_compiled("libs", path)
print(path, libs.compiled.compiled_folder().name != before)
"""
    done = python("-c", program, pure=False)
    assert done.stdout.strip() == "['here'] True", done.stderr


@pytest.mark.skipif(bool(os.environ.get("PURE_PYTHON")), reason="all of it runs as Python already")
def test_the_rules_hold_as_python_too() -> None:
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/matcher", "tests/unit/wallet", pure=True)
    assert done.returncode == 0, done.stdout
