"""A real OpenID Connect provider for tests: HTTP on a free port, and tokens that it signs."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwk, jwt

AUDIENCE = "lirf"
ODD_KEYS = [
    {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "odd"},
    {"kid": "none"},
    "no key",
    {"kty": "RSA"},
]


class Provider:
    """An OpenID Connect provider: discovery, keys, and tokens for any subject."""

    def __init__(self) -> None:
        self.key = jwk.ECKey.generate_key("P-256", {"kid": "first", "use": "sig"})
        self.is_down, self.request_count, self.pause_seconds = False, 0, 0.0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.request_count += 1
                time.sleep(provider.pause_seconds)
                if provider.is_down:
                    self.send_error(500)
                    return
                documents: dict[str, object] = {
                    "/.well-known/openid-configuration": {
                        "issuer": provider.issuer,
                        "jwks_uri": f"{provider.issuer}/keys",
                    },
                    "/keys": {"keys": [*ODD_KEYS, provider.key.as_dict(private=False)]},
                }
                body = json.dumps(documents[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """A token for alice, an administrator, valid for an hour. Claims that are None are left out."""
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 3600}
        whole = {**usual, "roles": ["administrator"], **claims}
        header = {"alg": "ES256", "kid": self.key.kid, **(header or {})}
        return jwt.encode(
            {name: value for name, value in header.items() if value is not None},
            {name: value for name, value in whole.items() if value is not None},
            key or self.key,
            algorithms=[header["alg"]],
        )
