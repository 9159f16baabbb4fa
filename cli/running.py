"""The engine that runs on this machine, found by its folder."""

from cli.stack import Stack, development_secret
from libs.config import Settings, load_settings


def settings_of_running_stack() -> Settings:
    """The settings; where database or secret are embedded, those of the `trade-engine up` that runs with this data_dir.

    Raises StackError where nothing runs.
    """
    settings = load_settings()
    update: dict[str, object] = {}
    if not settings.database.dsn.get_secret_value():
        running = Stack.running_environment(settings.data_dir)
        dsn = type(settings.database).model_validate({"dsn": running["TRADE_ENGINE_DATABASE_DSN"]}).dsn
        update["database"] = settings.database.model_copy(update={"dsn": dsn})
    if not settings.auth.has_keys:
        secret = type(settings.auth).model_validate(
            {"hs256_secret": development_secret(settings.data_dir, create=False)}
        )
        update["auth"] = settings.auth.model_copy(update={"hs256_secret": secret.hs256_secret})
    return settings.model_copy(update=update)
