"""Compiles the sources that libs/compiled.py names: `python -m cli.compiling`.

Where no C compiler or no Python headers are, it says so and all goes on as Python.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

from libs.compiled import FOLDER, GROUP, ROOT, SOURCES, TAG, compiled_folder

# What is compiled together calls itself directly, and not as if another library could take its functions' place.
FLAGS = ["-fno-semantic-interposition", "-fvisibility=hidden"]


def compile_sources() -> Path:
    """Make the extension modules, and tell where they are.

    Twice, where the compiler can: it arranges the code by what is usual in a market, which is seen in a first build.
    Raises CCompilerError, ExecError or PlatformError where nothing compiles C, SystemExit where mypyc refuses a source.
    """
    with tempfile.TemporaryDirectory() as scratch:
        # mypy's own settings are those in pyproject.toml.
        modules = mypycify([*SOURCES], opt_level="3", debug_level="0", group_name=GROUP, target_dir=f"{scratch}/c")
        options = modules[0].extra_compile_args
        built = Path(scratch, "out")
        try:
            _build(modules, built, [*options, *FLAGS, "-fprofile-generate", f"-fprofile-dir={scratch}/seen"])
            environment = {**os.environ, "PURE_PYTHON": "", "COMPILED_FOLDER": str(built)}
            subprocess.run([sys.executable, "-m", "cli.flow"], env=environment, check=True)
            _build(modules, built, [*options, *FLAGS, f"-fprofile-use={scratch}/seen", "-Wno-missing-profile"])
        except (CCompilerError, subprocess.CalledProcessError):
            _build(modules, built, [*options, *FLAGS])
        target = compiled_folder()
        for old in FOLDER.glob(f"*-{TAG}"):
            shutil.rmtree(old)
        shutil.copytree(built, target)
    return target


def _build(modules: list[Extension], folder: Path, options: list[str]) -> None:
    for module in modules:
        module.extra_compile_args = options
        module.extra_link_args = [option for option in options if option == "-fprofile-generate"]
    command = build_ext(Distribution({"name": "compiled", "ext_modules": modules}))
    command.build_lib, command.build_temp, command.force = str(folder), f"{folder}.o", True
    command.ensure_finalized()
    command.run()


def main() -> None:
    """Compile what is not compiled yet."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    os.chdir(ROOT)
    if compiled_folder().is_dir():
        return
    try:
        target = compile_sources()
    except (CCompilerError, ExecError, PlatformError) as error:
        sys.stderr.write(f"nothing here compiles C, the matching core runs as Python: {error}\n")
    else:
        sys.stderr.write(f"compiled into {target.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
