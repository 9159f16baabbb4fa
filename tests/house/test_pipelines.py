"""Manifests and pipelines: valid by their schemas, and true to the code."""

import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from cli.health import SERVICES
from libs.config import Settings, variables

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy" / "kubernetes" / "base"
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
OBJECTS = [item for name in KUSTOMIZATION["resources"] for item in yaml.safe_load_all((BASE / name).read_text())]
SECTIONS = {"order_gateway": "gateway", "market_data": "marketdata"}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def of_kind(kind: str) -> dict[str, dict]:
    return {item["metadata"]["name"]: item for item in OBJECTS if item["kind"] == kind}


def containers() -> list[tuple[str, dict]]:
    workloads = {**of_kind("Deployment"), **of_kind("StatefulSet")}
    return [(name, item["spec"]["template"]["spec"]["containers"][0]) for name, item in workloads.items()]


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_manifests_are_valid(item: dict) -> None:
    kubernetes_validate.validate(item, "1.31", strict=True)


def test_every_file_of_the_base_is_part_of_it() -> None:
    assert {path.name for path in BASE.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}


def test_every_service_runs_and_listens_where_its_settings_say() -> None:
    assert {container["args"][0] for _, container in containers()} == set(SERVICES)
    for _, container in containers():
        service = container["args"][0]
        section = getattr(Settings(), SECTIONS.get(service, service))
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        wanted = {"metrics": section.metrics_port}
        wanted |= (
            {"http": section.port, "websocket": section.websocket_port} if service == "edge" else {"grpc": section.port}
        )
        assert ports == wanted


def test_the_settings_are_ones_that_there_are() -> None:
    known = {variable for _, _, variable in variables()}
    assert set(of_kind("ConfigMap")["trade-engine"]["data"]) <= known
    for _, container in containers():
        assert {entry["name"] for entry in container.get("env", ())} - {"POD_NAME"} <= known
    secrets = re.findall(r"literal=(\w+)", (BASE.parent / "README.md").read_text())
    assert secrets
    assert set(secrets) <= known


def test_services_budgets_policies_and_scalers_choose_what_there_is() -> None:
    workloads = {**of_kind("Deployment"), **of_kind("StatefulSet")}
    for name, service in of_kind("Service").items():
        assert service["spec"]["selector"] == {"app": name}
        assert name in workloads
    for name, budget in of_kind("PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == {"app": name}
        assert name in workloads
    assert of_kind("PodDisruptionBudget").keys() == workloads.keys()
    for name, scaler in of_kind("HorizontalPodAutoscaler").items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == name
        assert scaler["spec"]["minReplicas"] == workloads[name]["spec"]["replicas"]
    for name, policy in of_kind("NetworkPolicy").items():
        ports = {port["name"] for _, container in containers() for port in container["ports"]}
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= ports
            for source in rule.get("from", ()):
                app = source.get("podSelector", {}).get("matchLabels", {}).get("app")
                assert app is None or app in workloads, name


def test_nothing_runs_as_root_or_writes_its_own_files() -> None:
    for name, container in containers():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"], name
        assert not context["allowPrivilegeEscalation"], name


def check_schema(schema: str, path: Path) -> None:
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_is_valid() -> None:
    check_schema("vendor.compose-spec", ROOT / "compose.yaml")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_valid_and_call_targets_that_there_are(path: Path) -> None:
    check_schema("vendor.github-workflows", path)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text()
    called = re.findall(r"\bmake ([a-z-]+)", text)
    assert called
    assert set(called) <= targets
    for script in re.findall(r"scripts/[\w-]+\.sh", text):
        assert (ROOT / script).stat().st_mode & 0o111, script


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
