"""Files that only a container engine would read: at least they agree with the code and with each other."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from cli.health import SERVICES
from libs.config import Settings, variables
from libs.db.pool import KEYED_PLANS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
ENGINE = {name: part for name, part in COMPOSE["services"].items() if part.get("image") == "trade-engine"}


def test_compose_runs_every_service_and_sets_only_what_there_is() -> None:
    commands = {part["command"][0] for part in ENGINE.values()}
    assert commands == {*SERVICES, "migrate"}
    known = {variable for _, _, variable in variables()}
    for part in ENGINE.values():
        assert set(part["environment"]) <= known


def test_compose_names_each_service_as_the_others_call_it() -> None:
    environment = ENGINE["wallet"]["environment"]
    for section in ("gateway", "matcher", "settlement", "wallet", "marketdata"):
        host, port = environment[f"TRADE_ENGINE_{section.upper()}_ADDRESS"].split(":")
        assert host in ENGINE
        assert int(port) == getattr(Settings(), section).port


def test_the_pooler_puts_each_service_into_its_role_with_the_plans_that_a_pool_would_ask_for() -> None:
    pooler = configparser.ConfigParser(comment_prefixes=(";",), interpolation=None)
    pooler.read(ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini")
    for service in SERVICES:
        dsn = urlsplit(ENGINE[service.replace("_", "-")]["environment"]["TRADE_ENGINE_DATABASE_DSN"])
        assert (dsn.hostname, dsn.port) == ("pgbouncer", pooler.getint("pgbouncer", "listen_port"))
        assert dsn.path == f"/{service}"
        settings = dict(re.findall(r"SET (\w+) = (\w+)", pooler["databases"][service]))
        if service == "edge":  # has no pool, and reads what market data may read
            assert settings == {"role": "trade_engine_market_data"}
        else:
            assert settings == {"role": f"trade_engine_{service}", **KEYED_PLANS}


def test_nothing_in_compose_listens_beyond_this_machine() -> None:
    for part in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in part.get("ports", ()))


def test_prometheus_scrapes_every_service_where_compose_runs_it() -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in scraped}
    assert set(targets) == set(SERVICES)
    sections = {"order_gateway": "gateway", "market_data": "marketdata"}
    for name, target in targets.items():
        host, port = target.split(":")
        assert ENGINE[host]["command"] == [name]
        assert int(port) == getattr(Settings(), sections.get(name, name)).metrics_port


def test_nothing_asks_for_the_distribution_which_is_not_installed_in_the_image() -> None:
    for folder in ("libs", "services", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "importlib.metadata" not in path.read_text(), path


def test_the_image_starts_every_service_by_its_name() -> None:
    script = (ROOT / "deploy" / "entrypoint.sh").read_text()
    match = re.search(r"^((?:\w+ \| )+\w+)\)$", script, re.MULTILINE)
    assert match is not None
    assert set(match[1].split(" | ")) == set(SERVICES)
    copied = re.findall(r"^COPY (\S+) \./", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    assert {"libs", "services", "cli", "migrations", "protos"} <= set(copied)


def test_a_command_with_a_services_name_is_a_command_in_the_image() -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = str(ROOT / "deploy" / "entrypoint.sh")
    done = subprocess.run(
        ["sh", script, "settlement", "status", "--help"], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "settlement status [OPTIONS]" in done.stdout
