import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import configuration
from cli.main import cli
from libs.config import ConfigError, Section, Settings, load_settings


def test_defaults_file_and_environment_in_this_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_settings().wallet.queue_max == 20_000
    (tmp_path / "c.yaml").write_text("wallet:\n  queue_max: 7\n  batch_max: 600\n")
    monkeypatch.setenv("TRADE_ENGINE_CONFIG", str(tmp_path / "c.yaml"))
    assert load_settings().wallet.queue_max == 7
    monkeypatch.setenv("TRADE_ENGINE_WALLET_QUEUE_MAX", "8")
    assert (load_settings().wallet.queue_max, load_settings().wallet.batch_max) == (8, 600)


def test_settings_of_another_process_are_read_without_touching_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of this process's threads may be reading its environment."""
    monkeypatch.setenv("TRADE_ENGINE_WALLET_QUEUE_MAX", "8")
    before = dict(os.environ)
    theirs = load_settings({"TRADE_ENGINE_WALLET_BATCH_MAX": "600", "TRADE_ENGINE_DATA_DIR": "/theirs"})
    assert (theirs.wallet.queue_max, theirs.wallet.batch_max, str(theirs.data_dir)) == (20_000, 600, "/theirs")
    assert dict(os.environ) == before


def test_every_problem_is_listed_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADE_ENGINE_WALLET_BATCH_MAX", "0")
    monkeypatch.setenv("TRADE_ENGINE_EDGE_PORT", "http")
    monkeypatch.setenv("TRADE_ENGINE_LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigError) as error:
        load_settings()
    for path in ("wallet.batch_max", "edge.port", "log.level"):
        assert path in str(error.value)


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRADE_ENGINE_WALLET_BATCHMAX", "5")
    with pytest.raises(ConfigError, match="TRADE_ENGINE_WALLET_BATCHMAX"):
        load_settings()
    monkeypatch.delenv("TRADE_ENGINE_WALLET_BATCHMAX")
    (tmp_path / "c.yaml").write_text("wallet:\n  colour: red\n")
    monkeypatch.setenv("TRADE_ENGINE_CONFIG", str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigError, match=r"wallet\.colour"):
        load_settings()


@pytest.mark.parametrize("content", ["- a list", "wallet: [", "just text"])
def test_files_that_are_no_settings_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    monkeypatch.setenv("TRADE_ENGINE_CONFIG", str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigError):
        load_settings()


def test_secrets_do_not_show() -> None:
    settings = Settings.model_validate({"database": {"dsn": "postgresql://u:hidden@h/d"}})
    assert "hidden" not in repr(settings)


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            undescribed = [key for key, item in field.annotation.model_fields.items() if not item.description]
            assert not undescribed, name


def test_the_file_may_name_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('wallet: {queue_max: "${WAITING:7}"}\nredis: {url: "redis://${REDIS_HOST}:6379/0"}\n')
    monkeypatch.setenv("TRADE_ENGINE_CONFIG", str(path))
    with pytest.raises(ConfigError, match="REDIS_HOST"):
        load_settings()
    monkeypatch.setenv("REDIS_HOST", "cache")
    assert load_settings().wallet.queue_max == 7
    assert load_settings().redis.url.get_secret_value() == "redis://cache:6379/0"
    monkeypatch.setenv("WAITING", "9")
    assert load_settings().wallet.queue_max == 9


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("amqp://user:hidden@broker/\n")
    monkeypatch.setenv("TRADE_ENGINE_RABBITMQ_URL_FILE", str(secret))
    assert load_settings().rabbitmq.url.get_secret_value() == "amqp://user:hidden@broker/"
    monkeypatch.setenv("TRADE_ENGINE_RABBITMQ_URL", "amqp://other/")
    assert load_settings().rabbitmq.url.get_secret_value() == "amqp://other/", "the variable goes before the file"
    monkeypatch.setenv("TRADE_ENGINE_REDIS_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="TRADE_ENGINE_REDIS_URL_FILE"):
        load_settings()
    monkeypatch.delenv("TRADE_ENGINE_REDIS_URL_FILE")
    monkeypatch.setenv("TRADE_ENGINE_WALLET_PORT_FILE", str(secret))
    with pytest.raises(ConfigError, match="TRADE_ENGINE_WALLET_PORT_FILE"):
        load_settings()


def test_the_example_holds_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings()
    monkeypatch.setenv("TRADE_ENGINE_CONFIG", str(configuration.EXAMPLE))
    assert load_settings() == defaults


def test_what_is_shown_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADE_ENGINE_DATABASE_DSN", "postgresql://user:hidden@host/name")
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0
        assert "hidden" not in done.output
        assert configuration.MASK in done.output
    monkeypatch.setenv("TRADE_ENGINE_DATABASE_POOL_MAX", "0")
    with pytest.raises(ConfigError, match=r"database\.pool_max"):
        CliRunner().invoke(cli, ["config", "check"], catch_exceptions=False)


def test_no_default_port_can_be_the_near_end_of_an_outgoing_connection() -> None:
    """A service that is killed could not listen again: for as long as that connection is there, and a minute longer."""
    ports = {
        f"{section}.{name}": value
        for section, part in load_settings()
        if isinstance(part, Section)
        for name, value in part
        if name.endswith("port")
    }
    assert {"gateway.port", "matcher.port", "edge.websocket_port", "wallet.metrics_port"} <= ports.keys()
    assert [name for name, port in ports.items() if not 0 <= port < 32_768] == []
    assert len(set(ports.values()) - {0}) == len([port for port in ports.values() if port]), "each has its own"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_BATCH_MAX", "501"),
        ("SETTLEMENT_BATCH_MAX", "501"),
        ("MATCHER_BATCH_MAX", "499"),
        ("WALLET_BATCH_MAX", "499"),
    ],
)
def test_who_is_called_takes_what_callers_may_bring(variable: str, value: str) -> None:
    """A matcher or a wallet that took less would refuse every large batch as a whole."""
    with pytest.raises(ConfigError, match="500"):
        load_settings({f"TRADE_ENGINE_{variable}": value})


def test_a_matcher_serves_one_of_the_shards_there_are() -> None:
    with pytest.raises(ConfigError, match="matcher: Value error, shard 1 is none of the 1"):
        load_settings({"TRADE_ENGINE_MATCHER_SHARD": "1"})
    assert load_settings({"TRADE_ENGINE_MATCHER_SHARD": "1", "TRADE_ENGINE_MATCHER_SHARDS": "2"}).matcher.shard == 1
