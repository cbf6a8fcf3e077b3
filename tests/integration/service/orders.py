"""Orders, which real gateways are tried with: what is let through, and what those who ask see of it."""

import json
from typing import Any, NamedTuple

from tests.integration.service.behind import Answered, Reached, send

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: orders}
spec:
  match: {resources: [{type: order}]}
  rules:
    - {name: any, effect: allow, when: "action.name == 'read' || (action.name == 'create' && change.after.amount <= 10)"}
    - {name: large, effect: hold, when: "action.name == 'create' && change.after.amount > 10", message: large, approval: {anyOf: [{group: sales}]}}
    - {name: frozen, effect: deny, when: "resource.id == 'frozen'", message: frozen for good}
"""
MAPPING = """\
apiVersion: mutationfirewall.io/v1
kind: GatewayMapping
gateways: [{kind: envoy, principals: [test]}]
routes:
  - {path: "/v1/orders/{order}", methods: [GET, HEAD], hosts: [api.example.com], resource: {type: order, id: "{order}"}}
  - {path: "/v1/orders/{order}", methods: [POST], hosts: [api.example.com], body: json, resource: {type: order, id: "{order}"}}
answers: {remove: [x-internal, authorization]}
"""
CORPUS = """\
apiVersion: mutationfirewall.io/v1
kind: GatewayMapping
gateways: [{kind: envoy, subject: {header: x-agent-id, form: json}}]
routes: [{path: /mutations, methods: [POST], body: mutation}]
"""
JSON = "Content-Type: application/json"
# What is asked, and what becomes of it: method, target, body, status, effect.
ANSWERS = [
    ("GET", "/v1/orders/7", b"", 200, "allow"),
    ("HEAD", "/v1/orders/7", b"", 200, "allow"),
    ("POST", "/v1/orders/7", b'{"amount": 3}', 200, "allow"),
    ("POST", "/v1/orders/7", b'{"amount": 30}', 403, "hold"),
    ("POST", "/v1/orders/7", b'{"other": 30}', 403, "deny"),
    ("GET", "/v1/orders/frozen", b"", 403, "deny"),
]


class Behind(NamedTuple):
    """A port of a gateway, the service that it asks, and the header by which it knows the agent `bot`."""

    port: int
    service: Any
    bot: str

    def send(self, method: str, target: str, *headers: str, who: str | None = None, **sent: bytes) -> Answered:
        """One request of the agent, of `who` else, of nobody where that is empty."""
        named = self.bot if who is None else who
        return send(self.port, method, target, *filter(None, (named,)), *headers, **sent)

    def decided(self, entry: tuple[int, str, bytes]) -> Any:
        """The mutation that an entry is about."""
        with self.service.client(key=self.service.operator_key) as client:
            return client.get(f"/v1/decisions/{entry[1]}").json()["record"]["input"]

    def answers(self, method: str, target: str, body: bytes, status: int, effect: str) -> None:
        """One of `ANSWERS`: what is allowed gets through, the caller is told of the rest, the ledger has both."""
        before = len(self.service.entries())
        answer = self.send(method, target, JSON, body=body)
        assert answer.status == status, answer
        (entry,) = self.service.entries()[before:]
        assert json.loads(entry[2])["decision"] == effect
        if status == 200:
            assert (Reached.methods, Reached.paths, Reached.bodies) == ([method], [target], [body])
            told = Reached.told()
        else:
            assert Reached.paths == []
            told = {name: [value] for name, value in answer.headers.items()}
            assert answer.headers["content-type"] == "application/problem+json"
            problem = json.loads(answer.body)
            assert (problem["decision"], problem["decision_id"]) == (effect, entry[1])
            assert problem["type"].endswith({"hold": "/held", "deny": "/denied"}[effect])
        expected = [effect], [entry[1]], [str(entry[0])]
        assert (told["x-mfw-effect"], told["x-mfw-decision-id"], told["x-mfw-ledger-index"]) == expected

    def keeps(self, name: str) -> None:
        """A header that a caller calls one of its connection's is not lost (RFC 9110 section 7.6.1)."""
        assert self.send("GET", "/v1/orders/frozen", f"Connection: close, {name}").status == 403
        assert Reached.paths == []
        assert self.send("GET", "/v1/orders/7", f"Connection: close, {name}").status == 200
        assert (Reached.told()["x-agent-id"], Reached.told()["x-mfw-effect"]) == (["bot"], ["allow"])

    def reads_as_frozen(self, target: str) -> None:
        """A target is another spelling of `/v1/orders/frozen`, for the gateway and for the firewall."""
        before = len(self.service.entries())
        assert self.send("GET", target).status == 403
        (entry,) = self.service.entries()[before:]
        assert self.decided(entry)["resource"]["id"] == "frozen"
        assert Reached.paths == []

    def refuses(self, method: str, target: str, *headers: str) -> int:
        """What could be read in two ways reaches nobody, and nobody decides about it; gives the status."""
        before = len(self.service.entries())
        answer = self.send(method, target, *headers)
        assert Reached.paths == []
        assert len(self.service.entries()) == before
        return answer.status
