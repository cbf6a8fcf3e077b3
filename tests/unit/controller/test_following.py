"""Objects that are followed: what is news, what is not, and when nothing is known."""

import asyncio
import contextlib
from typing import Any

from app.controller.follow import Follower
from app.errors import FirewallError, Kind
from app.policies.custom_resources import EXCEPTIONS, POLICIES
from tests.unit.cluster.test_accounts import Server, event, listed
from tests.unit.controller.test_building import policy


class Recording(Server):
    """The same, which also keeps the paths."""

    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        super().__init__(lists, watches)
        self.paths: list[str] = []

    async def call(self, method: str, path: str, *, query: Any = None) -> Any:
        self.paths.append(path)
        return await super().call(method, path, query=query)


async def followed(lists: list[Any], watches: list[Any], **more: Any) -> tuple[Follower, Recording, int]:
    server = Recording(lists, watches)
    news = 0

    def changed() -> None:
        nonlocal news
        news += 1

    resource = more.pop("resource", POLICIES)
    follower = Follower(server, resource, changed=changed, backoff=(0.001,), **more)
    assert not follower.known
    task = asyncio.create_task(follower.run())
    async with asyncio.timeout(60):
        await server.done.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return follower, server, news


def names(follower: Follower) -> list[str]:
    return [item.name for item in follower.items]


async def test_a_list_in_pages_and_what_changes_after_it() -> None:
    one = policy("one").body
    status = {**one, "status": {"digest": "x"}}
    follower, server, news = await followed(
        [listed(policy("two").body, more="next"), listed(one, version=3)],
        [
            [
                event("MODIFIED", status),
                event("ADDED", policy("three").body),
                event("MODIFIED", policy("three", "false").body),
                event("DELETED", policy("two").body),
                event("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
            ]
        ],
    )

    assert names(follower) == ["one", "three"]
    assert follower.items[0].status == {"digest": "x"}
    assert follower.known
    # The list, and three events: a status is no news.
    assert news == 4
    assert set(server.paths) == {"/apis/mutationfirewall.io/v1/mutationpolicies"}
    assert server.asked[-1]["resourceVersion"] == "9"


async def test_a_namespace_alone() -> None:
    _, server, _ = await followed([listed()], [], resource=EXCEPTIONS, namespace="payments")
    assert server.paths[0] == "/apis/mutationfirewall.io/v1/namespaces/payments/policyexceptions"


async def test_what_is_too_old_is_listed_again_and_is_news_only_if_it_is_other() -> None:
    body = policy("one").body
    gone = [event("ERROR", {"code": 410})]
    follower, _, news = await followed([listed(body), listed(body), listed()], [gone, gone])

    assert names(follower) == []
    assert news == 2


async def test_a_connection_that_breaks_leaves_what_is_known() -> None:
    broken = [{"type": "MODI"}]
    follower, _, _ = await followed(
        [listed(policy("one").body), FirewallError(Kind.UNAVAILABLE, "away")],
        [broken, [event("ERROR", {"code": 500})]],
    )
    assert follower.known
    assert names(follower) == ["one"]


async def test_without_the_definition_or_the_right_nothing_is_known() -> None:
    for kind in (Kind.NOT_FOUND, Kind.FORBIDDEN):
        follower, _, _ = await followed(
            [listed(policy("one").body), FirewallError(kind, "no")], [[event("ERROR", {"code": 410})]]
        )
        assert not follower.known
