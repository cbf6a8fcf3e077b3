"""The header of a proxy, over real connections: the peer counts, whatever `X-Forwarded-For` says."""

import pytest

SPIFFE = "spiffe://example.org/ns/agents/sa/deploy"
MUTATION = {
    "subject": {"type": "agent", "id": "a"},
    "action": {"name": "update"},
    "resource": {"type": "box", "id": "b"},
    "change": {"after": {"size": 1}},
}


@pytest.mark.parametrize(("proxies", "status"), [("127.0.0.0/8", 200), ("10.0.0.0/8", 400)])
def test_who_may_name_the_client(serve, database_dsn, proxies, status):
    settings = {
        "MFW_AUTH__MTLS__HEADER": "X-Forwarded-Client-Cert",
        "MFW_AUTH__MTLS__PROXIES": proxies,
        "MFW_AUTH__MTLS__ROLES": "agent=spiffe://example.org/ns/agents/*",
    }
    # uvicorn believes X-Forwarded-For of 127.0.0.1, so that the client's address is 10.0.0.7 from then on.
    headers = {"X-Forwarded-Client-Cert": f"Hash=0a;URI={SPIFFE}", "X-Forwarded-For": "10.0.0.7"}
    with serve(database_dsn, **settings) as service, service.client(key="") as client:
        assert client.post("/v1/decisions", json=MUTATION, headers=headers).status_code == status
        forbidden = 403 if status == 200 else 400
        assert client.get("/v1/policy-sets", headers=headers).status_code == forbidden
        assert client.post("/v1/decisions", json=MUTATION).status_code == 401
