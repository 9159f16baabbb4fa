"""Signed requests of bots: which text is signed, and the secret it is signed with.

The secret of a key is derived from the installation's secret and the key's id, so that nothing needs to keep it: who reads
the database cannot sign. A signature is HMAC-SHA256 (RFC 2104) in hexadecimal.
"""

import base64
import hashlib
import hmac
from typing import Final

KEY_HEADER: Final = "x-api-key"
TIMESTAMP_HEADER: Final = "x-api-timestamp"
NONCE_HEADER: Final = "x-api-nonce"
SIGNATURE_HEADER: Final = "x-api-signature"


def secret_of(master: str, key_id: str) -> str:
    """The secret of a key, 43 characters of URL-safe base64."""
    digest = hmac.digest(master.encode(), f"api-key/{key_id}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def hash_of(secret: str) -> bytes:
    """What is kept of a secret. It has 256 random bits, so that a plain hash is enough."""
    return hashlib.sha256(secret.encode()).digest()


def sign(secret: str, *, timestamp_ms: str, nonce: str, method: str, target: str, body: bytes) -> str:
    """The signature of a request. `target` is path and query as they are sent."""
    text = "\n".join((timestamp_ms, nonce, method.upper(), target, hashlib.sha256(body).hexdigest()))
    return hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()
