"""Every filter of a search has an index that gives its rows in the order of the page: no table is read through."""

import asyncpg
import pytest

from bench import search

ROWS = 24_000


@pytest.fixture
async def connection(database_dsn):
    await search.fill(database_dsn, ROWS)
    made = await asyncpg.connect(database_dsn)
    # At this size a table may be read through quicker; at a size where it matters it must not need to be.
    await made.execute("SET enable_seqscan = off")
    yield made
    await made.close()


async def test_no_search_reads_a_table_through(connection):
    for name, wanted in search.asked().items():
        _, found, blocks, nodes = await search.plan(connection, wanted, rows=ROWS)
        assert "Seq Scan" not in nodes, (name, nodes)
        assert blocks < 4000, (name, blocks)
        if name not in {"resource", "an unknown subject", "resource type, action, decision", "subject and decision"}:
            assert found > 1, name


async def test_a_page_costs_what_it_shows(connection):
    """Not what there is: the plan of a filter stops after the page, in the order of the index."""
    for name in ("nothing", "resource type", "action", "policy", "decision, 1 in 20"):
        _, found, blocks, nodes = await search.plan(connection, search.asked()[name], rows=ROWS)
        assert "Sort" not in nodes, (name, nodes)
        assert found == 51
        # Each partition begins its scan; then a row each.
        assert blocks < 1500, (name, blocks)
