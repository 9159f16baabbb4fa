"""What child processes are started with."""

from cli.processes import PORTS, free_port


def test_no_port_is_given_to_two() -> None:
    given = [free_port() for _ in range(1_000)]
    assert len(set(given)) == len(given)
    assert all(port in PORTS for port in given)
