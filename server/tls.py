"""The certificates that the server shows, and asks for."""

import ssl
from pathlib import Path

import grpc

from server.settings import Settings


class TlsFilesUnreadable(ValueError):
    """A TLS file cannot be read, or does not hold what it should."""


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS, and mTLS if there is an authority for clients. Raises TlsFilesUnreadable."""
    cert, key, authority = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None or key is None:
        return None
    try:
        pair = (key.read_bytes(), cert.read_bytes())
        roots = authority.read_bytes() if authority else None
        _check(cert, key, authority)
    except ssl.SSLError as error:  # an OSError too, but it names no file
        asked = f", or {authority} is no authority" if authority else ""
        raise TlsFilesUnreadable(
            f"TLS: {cert} is no certificate in PEM, or {key} is not its key, unencrypted{asked}: "
            f"{error.reason or error}"
        ) from error
    except OSError as error:
        raise TlsFilesUnreadable(
            f"TLS: {error.filename} cannot be read: {error.strerror}"
        ) from error
    return grpc.ssl_server_credentials(
        [pair], root_certificates=roots, require_client_auth=authority is not None
    )


def _check(cert: Path, key: Path, authority: Path | None) -> None:
    """Raises SSLError where gRPC would only say, when it binds, that it cannot."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # gRPC's library has no levels: what it takes, we do
    context.load_cert_chain(cert, key, password="")  # or an encrypted key would be asked for
    if authority is not None:
        context.load_verify_locations(authority)
