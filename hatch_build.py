"""Build hook: compile `protos/` into the git-ignored `gen/`, typed, so that `import exchange...` works.

Generated code refuses an older grpcio/protobuf than its generator. So everything is pinned in one lock file and
the project is built without isolation, by the very grpcio-tools that stand beside the grpcio it will run on.
"""

import importlib.resources
import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


class ProtoBuildHook(BuildHookInterface[Any]):
    """Compiles the contracts before a wheel or an editable install is made."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every proto of this project (hatchling calls this before it collects files)."""
        compile_protos(ROOT)
        if version != "editable":  # an editable install reads both where they are
            build_data["force_include"] |= {
                str(ROOT / "gen" / "exchange"): "exchange",
                str(ROOT / "migrations"): "migrations",
            }


def compile_protos(root: Path) -> None:
    """Write `gen/exchange` (Python, stubs, the contracts with their comments) and `gen/third_party` (Google's, for buf).

    Raises SystemExit.
    """
    from grpc_tools import protoc

    google = Path(next(iter(importlib.import_module("google.api").__path__))).parent
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    gen = root / "gen"
    for made in ("exchange", "third_party"):
        shutil.rmtree(gen / made, ignore_errors=True)
    for package in ("api", "rpc"):
        target = gen / "third_party" / "google" / package
        target.mkdir(parents=True)
        for name in ("annotations.proto", "http.proto", "status.proto", "error_details.proto", "code.proto"):
            if (google / package / name).exists():
                shutil.copy(google / package / name, target)
    sources = sorted(str(path) for path in (root / "protos").rglob("*.proto"))
    bin_dir = Path(sys.executable).parent
    plugins = [f"--plugin={plugin}={bin_dir / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    out = str(gen)
    code = protoc.main([
        "protoc", f"-I{root / 'protos'}", f"-I{gen / 'third_party'}", f"-I{well_known}", *plugins,
        f"--descriptor_set_out={gen / 'contracts.binpb'}", "--include_imports", "--include_source_info",
        f"--python_out={out}", f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}",
        *sources,
    ])  # fmt: skip
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}")
    (gen / "contracts.binpb").rename(gen / "exchange" / "contracts.binpb")
    for folder in [gen / "exchange", *(path for path in (gen / "exchange").rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
        (folder / "py.typed").touch()


if __name__ == "__main__":
    compile_protos(ROOT)
