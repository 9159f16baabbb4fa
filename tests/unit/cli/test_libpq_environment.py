"""Where psql and pg_dump are led to: wherever the services go."""

import pytest

from cli.embedded import libpq_environment


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        (
            "postgresql://user:p%40ss@db/trade",
            {"PGHOST": "db", "PGPORT": "5432", "PGUSER": "user", "PGPASSWORD": "p@ss", "PGDATABASE": "trade"},
        ),
        (
            "postgresql://user@one:5433,two/trade?target_session_attrs=read-write&sslmode=verify-full&sslrootcert=/ca.pem",
            {"PGHOST": "one,two", "PGPORT": "5433,5432", "PGTARGETSESSIONATTRS": "read-write",
             "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/ca.pem"},
        ),
        ("postgresql://user@[::1]:5433/trade", {"PGHOST": "::1", "PGPORT": "5433"}),
        ("postgresql://127.0.0.1:5432/trade", {"PGHOST": "127.0.0.1", "PGUSER": "", "PGPASSWORD": ""}),
    ],
)  # fmt: skip
def test_an_address_means_to_libpq_what_it_means_to_the_services(dsn: str, said: dict[str, str]) -> None:
    assert said.items() <= libpq_environment(dsn).items()
