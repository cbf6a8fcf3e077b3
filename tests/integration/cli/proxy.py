"""A proxy that ends TLS in front of a service, as far as its headers go: `PORT UPSTREAM ADDRESS IDENTITY`.

It connects from ADDRESS, removes what its clients say about who they are, and names IDENTITY as the certificate's. For
this client and no other it claims to have been called from the address in `X-Test-From`.
"""

import http.client
import http.server
import sys

HEADER = "X-Client-Identity"
DROPPED = {HEADER.lower(), "x-forwarded-for", "x-test-from", "host", "connection"}


class Handler(http.server.BaseHTTPRequestHandler):
    """One request of a client is one to the service."""

    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in DROPPED}
        headers["X-Forwarded-For"] = self.headers.get("X-Test-From", self.client_address[0])
        if IDENTITY:
            headers[HEADER] = IDENTITY
        upstream = http.client.HTTPConnection("127.0.0.1", UPSTREAM, timeout=60, source_address=(ADDRESS, 0))
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _forward  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


PORT, UPSTREAM, ADDRESS, IDENTITY = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]

if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()
