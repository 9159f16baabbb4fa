"""Settings: defaults here, over them a YAML file, over that environment variables TRADE_ENGINE_<SECTION>_<KEY>.

In the file `${NAME}` and `${NAME:default}` stand for environment variables. A secret may also stand in a file of its own,
named by TRADE_ENGINE_<SECTION>_<KEY>_FILE. Every setting has a type, a default and a description. Wrong values stop the
start with every problem listed.
"""

import os
import re
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from libs.addresses import with_port

CONFIG_FILE_VARIABLE = "TRADE_ENGINE_CONFIG"
DATA_DIR_VARIABLE = "TRADE_ENGINE_DATA_DIR"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
# What one call to a matcher or a wallet may bring: those who call bring no more, those who are called take no less.
CALL_MAX = 500
# Default ports lie below what Linux takes the near ends of outgoing connections from (32768 and up): one of those, even
# one that ended a minute ago, would keep a service that was killed from listening again.
Port = Annotated[int, Field(ge=0, le=65535)]


class ConfigError(Exception):
    """The settings are not usable; the text lists every problem with its path."""


class Section(BaseModel):
    """A named group of settings; unknown names are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class Database(Section):
    """PostgreSQL."""

    dsn: SecretStr = Field(SecretStr(""), description="postgresql://user:password@host:port/name; empty: embedded")
    pool_max: int = Field(4, ge=1, le=100, description="Connections per service process")
    command_timeout_s: float = Field(30.0, gt=0, le=600, description="Longest a statement may take")
    role_prefix: str = Field(
        "trade_engine_",
        pattern=r"^[a-z_]{0,40}$",
        description="A service takes the role of this and its name; empty: none, as where each logs in by its own",
    )
    statement_cache_size: int = Field(256, ge=0, description="0 behind a PgBouncer older than 1.21")
    direct_dsn: SecretStr = Field(
        SecretStr(""),
        description="The server itself, for migrations and backups, where `dsn` is a pooler; empty: `dsn`",
    )
    session_settings: bool = Field(
        True,
        description="False behind a pooler, which takes none: then it sets them, or the login role (docs/operations.md)",
    )

    def server_dsn(self) -> str:
        """The server itself, not a pooler before it."""
        return self.direct_dsn.get_secret_value() or self.dsn.get_secret_value()


class Redis(Section):
    """Redis: limits, one-time tokens, the newest books."""

    url: SecretStr = Field(SecretStr(""), description="redis://host:port/0; empty: embedded")


class RabbitMq(Section):
    """RabbitMQ, for events."""

    url: SecretStr = Field(SecretStr(""), description="amqp://user:password@host:port/; empty: the embedded bus")
    quorum: bool = Field(False, description="Declare queues as quorum queues")
    prefetch: int = Field(200, ge=1, le=10_000, description="Messages a consumer holds unacknowledged")
    prefix: str = Field("", pattern=r"^[a-z0-9.-]{0,40}$", description="Put before exchange and queue names")


class Auth(Section):
    """Who may call."""

    hs256_secret: SecretStr = Field(SecretStr(""), description="Development only: shared secret, >= 32 characters")
    public_key_file: Path | None = Field(
        None, description="PEM file with the RS256/ES256 key that tokens are signed by"
    )
    jwks: str = Field("", description="JSON Web Key Set with the RS256/ES256 keys: https address or file; kept fresh")
    service_token_file: Path | None = Field(
        None, description="File with this service's own token, re-read every minute"
    )
    api_key_secret: SecretStr = Field(
        SecretStr(""),
        description="What secrets of API keys are derived from, >= 32 characters; empty: `hs256_secret`, else no API keys",
    )
    issuer: str = Field("trade-engine", description="Expected `iss`")
    audience: str = Field("trade-engine", description="Expected `aud`")

    @property
    def has_keys(self) -> bool:
        """Whether it is said how tokens are checked; else a stack of its own makes a development secret."""
        return bool(self.hs256_secret.get_secret_value() or self.public_key_file or self.jwks)


class Tls(Section):
    """TLS between services, and on the edge's ports. Files are PEM."""

    certificate_file: Path | None = Field(None, description="This process's certificate, with its chain")
    key_file: Path | None = Field(None, description="The key of that certificate")
    ca_file: Path | None = Field(
        None, description="Whom to believe: the authority that signed the others' certificates"
    )
    require_client_certificate: bool = Field(False, description="Mutual TLS: take only callers with a certificate")


class Service(Section):
    """One gRPC service: where it listens and where others find it."""

    host: str = Field("127.0.0.1", description="Address to listen on; of IPv6 without brackets")
    port: Port = Field(0, description="gRPC port")
    address: str = Field("", description="host:port under which others reach it; empty: host:port")
    metrics_port: Port = Field(0, description="Prometheus port; 0: none")
    streams_per_caller: int = Field(
        100,
        ge=1,
        description="Open streams of one user, or of one address where nobody is named; services have no limit",
    )

    def target(self) -> str:
        """Where to connect to."""
        return self.address or with_port(self.host, self.port)


class Gateway(Service):
    """Order gateway."""

    port: Port = Field(8051, description="gRPC port")
    metrics_port: Port = Field(9091, description="Prometheus port; 0: none")
    batch_max: int = Field(500, ge=1, le=CALL_MAX, description="Requests per batch, and orders per PlaceOrders")
    queue_max: int = Field(20_000, ge=1, description="Requests that may wait before new ones are refused")
    resolve_after_s: float = Field(10.0, gt=0, description="Age at which a PENDING order is taken to the matcher")
    orders_per_s: int = Field(100, ge=1, description="Orders and changes per second of a user, over all gateways")
    orders_burst: int = Field(CALL_MAX, ge=1, description="Orders and changes of a user at once above that rate")
    sweep_after_s: float = Field(60.0, gt=0, description="Age of the last change at which an open order is compared")
    streams_max: int = Field(1000, ge=1, description="StreamOrders subscribers per process")


class Matcher(Service):
    """Matcher."""

    port: Port = Field(8052, description="gRPC port")
    metrics_port: Port = Field(9092, description="Prometheus port; 0: none")
    shard: int = Field(0, ge=0, le=99, description="Shard this process serves")
    shards: int = Field(1, ge=1, le=100, description="How many shards there are, numbered from 0")
    lease_ms: int = Field(3000, ge=300, le=60_000, description="How long a leader is believed without a sign of life")
    batch_max: int = Field(1000, ge=CALL_MAX, le=1000, description="Commands per commit")
    queue_max: int = Field(20_000, ge=1, description="Commands that may wait before new ones are refused")
    streams_max: int = Field(
        5000, ge=1, description="Subscribers of each kind (books, trades); market data is one for each market"
    )
    snapshot_every: int = Field(100_000, ge=1, description="Commands after which a new snapshot is made")
    outbox_keep_s: int = Field(86_400, ge=60, description="How long published outbox rows are kept")

    @model_validator(mode="after")
    def _is_one_of_the_shards(self) -> Self:
        if self.shard >= self.shards:
            raise ValueError(f"shard {self.shard} is none of the {self.shards} there are, which are numbered from 0")
        return self


class Settlement(Service):
    """Settlement."""

    port: Port = Field(8053, description="gRPC port")
    metrics_port: Port = Field(9093, description="Prometheus port; 0: none")
    batch_max: int = Field(500, ge=1, le=CALL_MAX, description="Trades per wallet call")
    reconcile_every_s: float = Field(300.0, ge=0, description="Seconds between reconciliations; 0: none")
    reconcile_grace_s: float = Field(10.0, ge=0, le=300, description="How long a trade may be on its way to the ledger")
    streams_max: int = Field(
        5000, ge=1, description="StreamSettlements subscribers; market data is one for each market"
    )


class Wallet(Service):
    """Wallet."""

    port: Port = Field(8054, description="gRPC port")
    metrics_port: Port = Field(9094, description="Prometheus port; 0: none")
    batch_max: int = Field(1000, ge=CALL_MAX, le=1000, description="Operations per transaction")
    queue_max: int = Field(20_000, ge=1, description="Operations that may wait before new ones are refused")
    streams_max: int = Field(1000, ge=1, description="StreamBalances subscribers per process")
    audit_every_s: float = Field(3600.0, ge=0, description="Seconds between audits in the background; 0: none")


class MarketData(Service):
    """Market data."""

    port: Port = Field(8055, description="gRPC port")
    metrics_port: Port = Field(9095, description="Prometheus port; 0: none")
    streams_max: int = Field(1000, ge=1, description="Subscribers of each kind (books, trades, tickers and candles)")
    book_depth: int = Field(100, ge=20, le=1000, description="Levels of each side that are mirrored of every book")


class Edge(Section):
    """REST and WebSocket edge."""

    host: str = Field("127.0.0.1", description="Address to listen on; of IPv6 without brackets")
    port: Port = Field(8080, description="HTTP port; takes WebSockets, too")
    websocket_port: Port = Field(8081, description="Another port for WebSockets; 0: none")
    metrics_port: Port = Field(9090, description="Prometheus port; 0: none")
    body_max_bytes: int = Field(1_048_576, ge=1024, description="Largest request body")
    timeout_s: float = Field(10.0, gt=0, le=300, description="Longest a request may take")
    head_timeout_s: float = Field(5.0, gt=0, le=60, description="Longest a request's line and headers may take to come")
    body_timeout_s: float = Field(5.0, gt=0, le=300, description="Longest a request's body may take to come")
    keep_alive_s: int = Field(5, ge=1, le=600, description="How long an idle connection stays open; see security.md")
    trusted_proxies: str = Field("", description="Addresses or networks whose X-Forwarded-For is believed, with commas")
    cors_origins: str = Field("", description="Web origins whose pages may call, with commas; * for any")
    rate_per_s: int = Field(10, ge=1, description="Requests per second and user, or address where nobody is named")
    rate_burst: int = Field(20, ge=1, description="Requests at once above that rate")
    websockets_max: int = Field(1000, ge=1, description="Open WebSocket connections")
    websockets_per_ip: int = Field(100, ge=1, description="Open WebSocket connections from one address")
    heartbeat_s: float = Field(15.0, ge=0.1, le=300, description="How often a WebSocket is sent a heartbeat")
    streams_max: int = Field(200, ge=1, description="Open streams of newline-delimited JSON")
    streams_per_caller: int = Field(20, ge=1, description="Of these one user's, or one address's where nobody is named")
    shutdown_grace_s: float = Field(5.0, ge=0, le=60, description="Longest the drain after SIGTERM may take")


class Circuit(Section):
    """Circuit breakers of calls between services."""

    failures: int = Field(5, ge=1, le=1000, description="Calls in a row that must fail before the circuit opens")
    open_s: float = Field(30.0, gt=0, le=3600, description="How long an open circuit refuses before it tries again")


class Tracing(Section):
    """Traces of orders (OpenTelemetry)."""

    endpoint: str = Field("", description="OTLP collector over gRPC, such as http://jaeger:4317; empty: no traces")
    ratio: float = Field(1.0, ge=0, le=1, description="Share of orders that are traced")


class Log(Section):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level written")
    json_lines: bool = Field(True, description="JSON lines; false: text for a person")


class Settings(Section):
    """All settings of all services."""

    data_dir: Path = Field(Path("var"), description="Where embedded servers keep their data")
    database: Database = Database()
    redis: Redis = Redis()
    rabbitmq: RabbitMq = RabbitMq()
    auth: Auth = Auth()
    gateway: Gateway = Gateway()
    matcher: Matcher = Matcher()
    settlement: Settlement = Settlement()
    wallet: Wallet = Wallet()
    marketdata: MarketData = MarketData()
    edge: Edge = Edge()
    circuit: Circuit = Circuit()
    tls: Tls = Tls()
    log: Log = Log()
    tracing: Tracing = Tracing()


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the file named by TRADE_ENGINE_CONFIG (if any) and the environment. Raises ConfigError."""
    _refuse_unknown_variables(environment)
    content = _read_file(environment)
    _override(content, _secrets_in_files(environment))
    _override(content, environment)
    if DATA_DIR_VARIABLE in environment:
        content["data_dir"] = environment[DATA_DIR_VARIABLE]
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        problems = [f"  {'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise _unusable(problems) from error


def require(settings: Settings, *paths: str) -> None:
    """Refuse to go on without these settings, whose empty default means that `trade-engine up` brings a server.

    Raises ConfigError.
    """
    empty = [path for path in paths if not attrgetter(path)(settings).get_secret_value()]
    if empty:
        raise _unusable(f"  {path}: a service that runs by itself needs it" for path in empty)


def _unusable(problems: Iterable[str]) -> ConfigError:
    return ConfigError("\n".join(["the configuration is not usable:", *problems]))


def _read_file(environment: Mapping[str, str]) -> dict[str, object]:
    path = environment.get(CONFIG_FILE_VARIABLE)
    if not path:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the file must hold sections with settings")
    expanded: dict[str, object] = _expanded(content, path, environment)
    return expanded


def _expanded(value: Any, path: str, environment: Mapping[str, str]) -> Any:
    """The same with environment variables put in. Raises ConfigError for one that is neither set nor has a default."""
    if isinstance(value, dict):
        return {key: _expanded(item, path, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, path, environment) for item in value]
    if not isinstance(value, str):
        return value

    def put_in(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = environment.get(name, default)
        if found is None:
            raise ConfigError(f"{path}: the environment has no {name}, and ${{{name}}} has no default")
        return found

    return _VARIABLE.sub(put_in, value)


def _secrets_in_files(environment: Mapping[str, str]) -> dict[str, str]:
    """The secrets that stand in files, by variable. Raises ConfigError for a file that cannot be read."""
    secrets = {}
    for *_, variable in secret_variables():
        path = environment.get(f"{variable}_FILE")
        if path:
            try:
                secrets[variable] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{variable}_FILE: {error}") from error
    return secrets


def _override(content: dict[str, object], values: Mapping[str, str]) -> None:
    """Put values, by variable, where they belong. What is no section is left for the check to complain about."""
    for section, key, variable in variables():
        if variable in values and isinstance(settings := content.setdefault(section, {}), dict):
            settings[key] = values[variable]


def variables() -> list[tuple[str, str, str]]:
    """(section, key, environment variable) of every setting in a section."""
    return [
        (section, key, f"TRADE_ENGINE_{section}_{key}".upper())
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields
    ]


def secret_variables() -> list[tuple[str, str, str]]:
    """Those that are secrets."""
    return [
        (section, key, variable)
        for section, key, variable in variables()
        if getattr(Settings.model_fields[section].annotation, "model_fields")[key].annotation is SecretStr  # noqa: B009
    ]


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    known = {CONFIG_FILE_VARIABLE, DATA_DIR_VARIABLE}
    known |= {variable for _, _, variable in variables()}
    known |= {f"{variable}_FILE" for _, _, variable in secret_variables()}
    unknown = sorted(name for name in environment if name.startswith("TRADE_ENGINE_") and name not in known)
    if unknown:
        raise ConfigError("unknown settings in the environment:\n" + "\n".join(f"  {name}" for name in unknown))
