"""Where a C compiler is, mypyc has made extension modules of a few pure sources: the same code, several times as fast.

They lie in `gen/compiled/<digest of those sources>-<which Python and machine>`: what was compiled from other sources, or
for another Python, is never used. With PURE_PYTHON=1 in the environment the sources run themselves, with COMPILED_FOLDER
what lies there. cli/compiling.py makes them, ADR 007 says why.
"""

import hashlib
import os
from collections.abc import MutableSequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "gen" / "compiled"
GROUP = "libs.compiled"
TAG = EXTENSION_SUFFIXES[0].split(".")[1]  # such as cpython-311-x86_64-linux-gnu
_MATCHER = "book choices commands engine fingerprint market orders parsing rules snapshot stops"
_WALLET = "books ledger operations"
SOURCES = (
    "libs/money.py",
    *(f"services/matcher/core/{name}.py" for name in _MATCHER.split()),
    *(f"services/wallet/core/{name}.py" for name in _WALLET.split()),
)


def compiled_folder() -> Path:
    """Where what these very sources were compiled to for this Python lies, if they were."""
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update((ROOT / source).read_bytes())
    return FOLDER / f"{digest.hexdigest()[:16]}-{TAG}"


def prefer_compiled(package: str, path: MutableSequence[str]) -> None:
    """Let a package's modules be looked for among the compiled ones first."""
    folder = Path(os.environ.get("COMPILED_FOLDER") or compiled_folder()) / package.replace(".", "/")
    if folder.is_dir() and not os.environ.get("PURE_PYTHON"):
        path.insert(0, str(folder))
