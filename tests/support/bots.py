"""A bot that signs its requests, written from docs/security.md alone: nothing of the engine's own code signs here."""

import hashlib
import hmac
import secrets
import time

import httpx


class Bot:
    """Calls with an API key; every part of a signature can be made wrong."""

    def __init__(self, base_url: str, key_id: str, secret: str) -> None:
        self.base_url = base_url
        self.key_id = key_id
        self.secret = secret

    def headers(self, method: str, target: str, body: bytes = b"", **wrong: str) -> dict[str, str]:
        timestamp = wrong.get("timestamp", str(time.time_ns() // 1_000_000))
        nonce = wrong.get("nonce", secrets.token_hex(16))
        text = "\n".join([timestamp, nonce, method, target, hashlib.sha256(body).hexdigest()])
        signature = hmac.new(wrong.get("secret", self.secret).encode(), text.encode(), hashlib.sha256).hexdigest()
        return {
            "X-Api-Key": wrong.get("key", self.key_id),
            "X-Api-Timestamp": timestamp,
            "X-Api-Nonce": nonce,
            "X-Api-Signature": wrong.get("signature", signature),
        }

    async def call(self, method: str, target: str, body: bytes = b"", **wrong: str) -> httpx.Response:
        headers = self.headers(method, target, body, **wrong)
        async with httpx.AsyncClient(base_url=self.base_url, timeout=20) as http:
            return await http.request(method, target, content=body, headers=headers)
