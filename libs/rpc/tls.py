"""TLS between services, and mutual TLS: certificates from files, read again when they change."""

from pathlib import Path

import grpc

from libs.config import ConfigError, Tls


class Certificates:
    """A process's certificate, its key, and the authority that it believes."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._served: tuple[bytes, bytes, bytes] | None = None

    @property
    def on(self) -> bool:
        """Whether calls are encrypted at all."""
        return self._tls.ca_file is not None or self._tls.certificate_file is not None

    def server(self) -> grpc.ServerCredentials:
        """Credentials of a server. A changed file is taken up with the next connection. Raises ConfigError."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._changed_configuration,  # type: ignore[arg-type]  # None means unchanged, say grpc's docs, not its stubs
            self._tls.require_client_certificate,
        )

    def channel(self) -> grpc.ChannelCredentials:
        """Credentials of a client: shows its own certificate, where there is one. Raises ConfigError."""
        certificate = _read(self._tls.certificate_file) if self._tls.certificate_file else None
        key = _read(self._tls.key_file) if self._tls.key_file else None
        authority = _read(self._tls.ca_file) if self._tls.ca_file else None
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        if self._tls.certificate_file is None or self._tls.key_file is None:
            raise ConfigError("tls: a server needs tls.certificate_file and tls.key_file")
        if self._tls.require_client_certificate and self._tls.ca_file is None:
            raise ConfigError("tls: tls.require_client_certificate needs tls.ca_file")
        authority = _read(self._tls.ca_file) if self._tls.ca_file else b""
        self._served = _read(self._tls.key_file), _read(self._tls.certificate_file), authority
        return grpc.ssl_server_certificate_configuration([self._served[:2]], authority or None)

    def _changed_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        before = self._served
        configuration = self._configuration()
        return configuration if self._served != before else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"tls: {error}") from error
