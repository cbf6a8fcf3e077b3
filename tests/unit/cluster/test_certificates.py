"""A certificate is renewed in steps; whoever looks at the cluster in between finds nothing that does not fit."""

import asyncio
import base64
import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from app.cluster import certificates
from app.cluster.api import STRATEGIC_MERGE
from app.cluster.certificates import MADE_BY, Act, CertificateKeeper, Terms
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

SECRET = "/api/v1/namespaces/mutation-firewall/secrets/mutation-firewall-tls"
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/"
TERMS = Terms(names=("mutation-firewall.mutation-firewall.svc", "10.0.0.7"))
DAY = timedelta(days=1)


class Cluster:
    """An API server with optimistic locking, as far as it is asked here."""

    def __init__(self, *hooks: str) -> None:
        self.objects: dict[str, JsonObject] = {}
        self.version = 0
        self.writes: list[str] = []
        self.before: list[Any] = []
        for name in hooks:
            webhooks = [
                {"name": f"{part}.{name}", "clientConfig": {"url": "https://a"}} for part in ("changes", "exempt")
            ]
            self.put(HOOKS + name, {"metadata": {"name": name}, "webhooks": webhooks})

    def put(self, path: str, document: JsonObject) -> JsonObject:
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path] = document
        return document

    async def call(
        self, method: str, path: str, body: Any = None, *, query: Any = None, content_type: str = "application/json"
    ) -> JsonObject:
        await asyncio.sleep(0)
        if method != "GET":
            while self.before:
                self.before.pop()()
            if query is not None:
                assert query == {"dryRun": "All"}
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise FirewallError(Kind.CONFLICT, "there already")
        elif path not in self.objects:
            raise FirewallError(Kind.NOT_FOUND, "not there")
        if method == "GET":
            return copy.deepcopy(self.objects[path])
        found = self.objects.get(path)
        if found is not None and found["metadata"]["resourceVersion"] != body["metadata"].get("resourceVersion"):
            raise FirewallError(Kind.CONFLICT, "changed meanwhile")
        if query is not None:
            return copy.deepcopy(body)
        self.writes.append(f"{method} {path.rpartition('/')[2]}")
        if method == "PATCH":
            assert content_type == STRATEGIC_MERGE
            assert found is not None
            for changed in body["webhooks"]:
                one = next(hook for hook in found["webhooks"] if hook["name"] == changed["name"])
                one["clientConfig"] |= changed["clientConfig"]
            return self.put(path, found)
        return self.put(path, copy.deepcopy(body))

    # What tests look at

    def bundle(self, name: str) -> set[bytes]:
        """The authorities that an API server checks by."""
        hooks = self.objects[HOOKS + name]["webhooks"]
        bundles = {hook["clientConfig"].get("caBundle", "") for hook in hooks}
        assert len(bundles) == 1
        return pems(base64.b64decode(bundles.pop()))

    def served(self) -> bytes:
        return self.data("tls.crt")

    def data(self, name: str) -> bytes:
        return base64.b64decode(self.objects[SECRET]["data"].get(name, ""))

    def fits(self, name: str, *served: bytes) -> bool:
        """Whether everything that a replica may show is accepted."""
        authorities = [x509.load_pem_x509_certificate(one) for one in self.bundle(name)]
        return all(any(vouches(authority, one) for authority in authorities) for one in served)


def pems(bundle: bytes) -> set[bytes]:
    return {one.public_bytes(Encoding.PEM) for one in x509.load_pem_x509_certificates(bundle)} if bundle else set()


def vouches(authority: x509.Certificate, certificate: bytes) -> bool:
    leaf = x509.load_pem_x509_certificate(certificate)
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, InvalidSignature):
        return False
    return True


class Keeping:
    """A keeper whose clock the test sets."""

    def __init__(self, cluster: Cluster, *, terms: Terms = TERMS, dry_run: bool = False) -> None:
        self.now = datetime(2026, 11, 22, 10, tzinfo=UTC)
        self.keeper = CertificateKeeper(
            cluster,
            namespace="mutation-firewall",
            secret="mutation-firewall-tls",
            configurations=["firewall"],
            terms=terms,
            clock=lambda: self.now,
            dry_run=dry_run,
        )

    async def acts(self) -> list[Act]:
        return [one.act for one in (await self.keeper.keep()).done]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_RETRY_SECONDS", 0)


async def test_from_nothing_to_the_third_certificate() -> None:
    cluster = Cluster("firewall")
    keeping = Keeping(cluster)
    assert await keeping.acts() == [Act.MADE, Act.BUNDLED]
    secret = cluster.objects[SECRET]
    assert (secret["type"], secret["metadata"]["annotations"][MADE_BY]) == ("kubernetes.io/tls", "self-signed")
    first = cluster.served()
    assert cluster.fits("firewall", first)
    # The authority's key is nowhere: nobody can make another certificate.
    assert sorted(secret["data"]) == ["ca.crt", "tls.crt", "tls.key"]
    for _ in range(2):
        writes = len(cluster.writes)
        before = cluster.served()
        outcome = await keeping.keeper.keep()
        assert (outcome.done, len(cluster.writes)) == ((), writes)
        keeping.now = outcome.due
        assert outcome.not_after - keeping.now < 31 * DAY
        # Announced first, and not yet in use.
        assert await keeping.acts() == [Act.PREPARED, Act.BUNDLED]
        assert (cluster.served(), len(cluster.bundle("firewall"))) == (before, 2)
        assert await keeping.acts() == []
        keeping.now += TERMS.settle
        assert await keeping.acts() == [Act.SWITCHED]
        assert cluster.served() != before
        # While kubelets bring it to the replicas, both fit.
        assert cluster.fits("firewall", before, cluster.served())
        assert (await keeping.keeper.keep()).due == keeping.now + TERMS.overlap
        keeping.now += TERMS.overlap
        assert await keeping.acts() == [Act.FORGOT, Act.BUNDLED]
        assert cluster.fits("firewall", cluster.served())
        assert not cluster.fits("firewall", before)
    assert first != cluster.served()


async def test_whatever_happens_in_between_everything_fits() -> None:
    """Two keepers, each stopped after any write: what is served is accepted at every moment."""
    cluster = Cluster("firewall")
    one, other = Keeping(cluster), Keeping(cluster)
    await asyncio.gather(one.acts(), other.acts())
    served = {cluster.served()}
    for _ in range(6):
        for keeping in (one, other):
            keeping.now += timedelta(days=61)
        for step in (timedelta(0), TERMS.settle, TERMS.overlap):
            for keeping in (one, other):
                keeping.now += step
            before = cluster.served()
            await asyncio.gather(one.acts(), other.acts())
            # A replica that has not got the new one yet.
            assert cluster.fits("firewall", cluster.served()), step
            if step != TERMS.overlap:
                assert cluster.fits("firewall", before), step
        served.add(cluster.served())
    assert len(served) == 7


async def test_a_write_that_is_lost_is_looked_at_again() -> None:
    cluster = Cluster("firewall")

    def somebody_else() -> None:
        hooks = cluster.objects[HOOKS + "firewall"]
        hooks["metadata"]["labels"] = {"by": "somebody"}
        cluster.put(HOOKS + "firewall", hooks)

    keeping = Keeping(cluster)
    await keeping.acts()
    keeping.now += timedelta(days=61)
    cluster.before = [somebody_else, somebody_else]
    assert await keeping.acts() == [Act.PREPARED, Act.BUNDLED]
    assert cluster.objects[HOOKS + "firewall"]["metadata"]["labels"] == {"by": "somebody"}

    class Busy(Cluster):
        async def call(self, method: str, path: str, body: Any = None, **more: Any) -> JsonObject:
            if method != "GET":
                raise FirewallError(Kind.CONFLICT, "changed meanwhile")
            return await super().call(method, path, body, **more)

    with pytest.raises(FirewallError) as caught:
        await Keeping(Busy("firewall")).acts()
    assert caught.value.kind is Kind.CONFLICT
    assert "all the time" in caught.value.detail


async def test_other_names_are_another_certificate_by_the_same_steps() -> None:
    cluster = Cluster("firewall")
    await Keeping(cluster).acts()
    before = cluster.served()
    keeping = Keeping(cluster, terms=Terms(names=(*TERMS.names, "firewall.example.com"), settle=timedelta(0)))
    assert await keeping.acts() == [Act.PREPARED, Act.BUNDLED, Act.SWITCHED]
    assert cluster.fits("firewall", before, cluster.served())


@pytest.mark.parametrize("damage", ["tls.crt", "tls.key", "ca.crt", "all", "end"])
async def test_a_certificate_of_no_use_is_replaced_at_once(damage: str) -> None:
    cluster = Cluster("firewall")
    keeping = Keeping(cluster)
    await keeping.acts()
    before = cluster.served()
    data = cluster.objects[SECRET]["data"]
    if damage == "end":
        keeping.now += timedelta(days=91)
    else:
        for name in list(data) if damage == "all" else [damage]:
            data[name] = {"tls.crt": "%%%", "ca.crt": base64.b64encode(b"no pem").decode()}.get(name, "")
    assert await keeping.acts() == [Act.REPLACED, Act.BUNDLED]
    # A replica that has the Secret's former content is accepted still.
    assert cluster.fits("firewall", before, cluster.served())
    keeping.now += TERMS.overlap
    assert await keeping.acts() == [Act.FORGOT, Act.BUNDLED]


async def test_what_was_prepared_and_is_of_no_use_is_prepared_again() -> None:
    cluster = Cluster("firewall")
    keeping = Keeping(cluster)
    await keeping.acts()
    keeping.now += timedelta(days=61)
    await keeping.acts()
    cluster.objects[SECRET]["data"]["next.key"] = cluster.objects[SECRET]["data"]["tls.key"]
    cluster.objects[SECRET]["metadata"]["annotations"]["mutationfirewall.io/bundled-at"] = "yesterday"
    # First what is left of it goes, from the caBundle as well.
    assert await keeping.acts() == [Act.BUNDLED, Act.PREPARED, Act.BUNDLED]
    keeping.now += TERMS.settle
    assert await keeping.acts() == [Act.SWITCHED]


async def test_an_empty_secret_is_filled_and_keeps_its_labels() -> None:
    cluster = Cluster("firewall")
    cluster.put(SECRET, {"type": "Opaque", "metadata": {"name": "mutation-firewall-tls", "labels": {"a": "b"}}})
    assert await Keeping(cluster).acts() == [Act.MADE, Act.BUNDLED]
    assert cluster.objects[SECRET]["metadata"]["labels"] == {"a": "b"}
    assert cluster.writes[0] == "PUT mutation-firewall-tls"


async def test_what_was_known_before_stays_for_the_overlap() -> None:
    cluster = Cluster("firewall")
    former = Cluster("firewall")
    await Keeping(former).acts()
    cluster.objects[HOOKS + "firewall"]["webhooks"] = former.objects[HOOKS + "firewall"]["webhooks"]
    keeping = Keeping(cluster)
    assert await keeping.acts() == [Act.MADE, Act.BUNDLED]
    assert cluster.fits("firewall", former.served(), cluster.served())
    keeping.now += TERMS.overlap
    await keeping.acts()
    assert not cluster.fits("firewall", former.served())


async def test_what_somebody_else_keeps_is_left_alone() -> None:
    cluster = Cluster("firewall")
    cluster.put(SECRET, {"metadata": {"name": "s", "namespace": "n"}, "data": {"tls.crt": "YQ=="}})
    with pytest.raises(FirewallError, match="somebody else made"):
        await Keeping(cluster).acts()
    cluster = Cluster("firewall")
    cluster.objects[HOOKS + "firewall"]["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": "a/b"}
    with pytest.raises(FirewallError, match="cert-manager"):
        await Keeping(cluster).acts()
    assert cluster.writes == []


async def test_without_a_webhook_there_is_a_certificate_all_the_same() -> None:
    cluster = Cluster()
    outcome = await Keeping(cluster).keeper.keep()
    assert [one.act for one in outcome.done] == [Act.MADE]
    assert outcome.missing == ("firewall",)


async def test_a_dry_run_says_the_next_step_and_takes_none() -> None:
    cluster = Cluster("firewall")
    assert await Keeping(cluster, dry_run=True).acts() == [Act.MADE]
    assert cluster.writes == []
    await Keeping(cluster).acts()
    writes = list(cluster.writes)
    keeping = Keeping(cluster, dry_run=True)
    assert await keeping.acts() == []
    keeping.now += timedelta(days=61)
    assert await keeping.acts() == [Act.PREPARED]
    assert cluster.writes == writes


@pytest.mark.parametrize("refused", [SECRET, HOOKS + "firewall"])
async def test_what_the_api_server_refuses_is_said(refused: str) -> None:
    class Refusing(Cluster):
        async def call(self, method: str, path: str, body: Any = None, **more: Any) -> JsonObject:
            if path == refused:
                raise FirewallError(Kind.FORBIDDEN, "no")
            return await super().call(method, path, body, **more)

    with pytest.raises(FirewallError) as caught:
        await Keeping(Refusing("firewall")).acts()
    assert caught.value.kind is Kind.FORBIDDEN
