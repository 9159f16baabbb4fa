from pathlib import Path

import pytest

from libs.config import ConfigError, Section, Settings, load_settings


def test_defaults_file_and_environment_in_this_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_settings().wallet.queue_max == 20_000
    (tmp_path / "c.yaml").write_text("wallet:\n  queue_max: 7\n  batch_max: 6\n")
    monkeypatch.setenv("TRADE_ENGINE_CONFIG", str(tmp_path / "c.yaml"))
    assert load_settings().wallet.queue_max == 7
    monkeypatch.setenv("TRADE_ENGINE_WALLET_QUEUE_MAX", "8")
    assert (load_settings().wallet.queue_max, load_settings().wallet.batch_max) == (8, 6)


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
