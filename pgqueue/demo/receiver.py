"""The warehouse that receives the webhooks: checks signatures, records orders, and is overloaded at times.

Run it as `python -m pgqueue.demo.receiver FILE`; it prints its port on the first line.
"""

import hashlib
import hmac
import json
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pgqueue.demo.shop import SECRET

OVERLOADED = 0.08  # the share of requests that are answered with 503


class Receiver(BaseHTTPRequestHandler):
    """Handles one request."""

    received: Path
    lock = threading.Lock()
    chance = random.Random(7)  # noqa: S311

    def do_POST(self) -> None:
        """Answer a webhook: 204 once it is on disk, 503 if overloaded, 401 for a wrong signature."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature, self.headers.get("Signature", "")):
            self._answer(401)
            return
        with self.lock:
            overloaded, work = self.chance.random() < OVERLOADED, self.chance.uniform(0.02, 0.12)
        time.sleep(work)
        if overloaded:
            self._answer(503)
            return
        line = json.dumps({"key": self.headers["Idempotency-Key"], **json.loads(body)}) + "\n"
        with self.lock, self.received.open("a") as file:
            file.write(line)
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def main() -> None:
    """Serve until killed."""
    Receiver.received = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
