"""What operators look at: every metric that a dashboard or an alert asks for is one that a running engine exposes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from cli import dashboards
from tests.support.engine import Engine
from tests.support.trading import Pair

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
OF_PROMETHEUS = {"up"}
WORDS = {
    "max", "min", "sum", "by", "rate", "increase", "histogram_quantile", "time", "vector", "and", "or", "le", "job", "peer",
    "parent", "symbol", "kind", "step", "status", "batcher", "method", "code", "outcome", "exchange", "queue",
}  # fmt: skip


def metrics_in(expression: str) -> set[str]:
    without_labels = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", expression)
    names = set(re.findall(r"[a-z_][a-z0-9_]*", without_labels)) - WORDS - OF_PROMETHEUS
    return {re.sub(r"_bucket$", "", name) for name in names}


async def exposed(engine: Engine) -> set[str]:
    """Names of all metrics of all services; counters as they are queried, with `_total`."""
    settings = engine.settings
    parts = (
        settings.edge,
        settings.gateway,
        settings.matcher,
        settings.settlement,
        settings.wallet,
        settings.marketdata,
    )
    names: set[str] = set()
    async with httpx.AsyncClient() as client:
        for part in parts:
            text = (await client.get(f"http://127.0.0.1:{part.metrics_port}/metrics")).text
            names |= set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    return names


def queries_of_the_dashboard() -> list[str]:
    panels = json.loads(dashboards.PATH.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


async def test_every_query_names_a_metric_that_a_running_engine_exposes(engine: Engine) -> None:
    pair = await Pair(engine).fund()
    await pair.trade(1)
    names = await exposed(engine)
    queries = [*queries_of_the_dashboard(), *(alert["expr"] for alert in ALERTS)]
    assert len(queries) > 40
    for query in queries:
        asked = metrics_in(query)
        assert asked or "up" in query, query
        assert asked <= names, f"{asked - names} in {query}"
    assert (await exposed(engine)) >= {"orders_placed_total", "process_cpu_seconds_total"}
    for label in re.findall(r'method="([^"]+)"', " ".join(queries)):
        metrics_port = engine.settings.gateway.metrics_port
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
        assert f'rpc_server_duration_seconds_count{{method="{label}"}}' in text


def test_the_dashboard_is_that_of_the_code() -> None:
    assert dashboards.PATH.read_text() == dashboards.text(), "run `make dashboards`"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_section_in_the_runbook_and_a_test(alert: dict) -> None:
    name = alert["alert"]
    assert f"\n## {name}\n" in (ROOT / "docs" / "runbook.md").read_text()
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    assert alert["labels"]["severity"] in {"page", "ticket"}
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert name in fired


@pytest.mark.parametrize("arguments", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_accepts_it(arguments: list[str]) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run([program, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
