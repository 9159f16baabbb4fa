"""Everything in `/openapi.json` called with anything: no faults of ours, no answers that the document does not have."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.support.engine import Engine

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method,allow_header_conformance,ignored_auth"
)


async def test_the_document_is_true(engine: Engine, tmp_path: Path) -> None:
    user = await engine.user(USDT="1000")
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{engine.rest}/openapi.json", "--no-color",
        "-H", f"Authorization: Bearer {engine.token(user, 'read trade')}", "--checks", CHECKS, "--seed", "1",
        "--max-examples", "20", "--phases", "examples,coverage,fuzzing", "--exclude-path-regex", ":stream$",
        "--continue-on-failure", "--warnings", "off", "--suppress-health-check", "filter_too_much",
    ]  # fmt: skip
    found = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stdout[:9000]
    assert (await engine.quiet()).clean
