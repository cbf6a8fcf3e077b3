"""Every filter of a search has an index: no table is read through, and a page costs what it shows."""

import asyncpg
import pytest

from bench import search

ROWS = 12_000


@pytest.fixture
async def connection(database_dsn):
    await search.fill(database_dsn, ROWS, resources=2_000)
    made = await asyncpg.connect(database_dsn)
    # At this size a table may be read through quicker; at a size where it matters it must not need to be.
    await made.execute("SET enable_seqscan = off")
    yield made
    await made.close()


async def test_no_search_reads_a_table_through(connection):
    for name, wanted in search.asked().items():
        _, found, blocks, nodes = await search.plan(connection, wanted, rows=ROWS)
        assert "Seq Scan" not in nodes, (name, nodes)
        # The table has some 400 blocks, its indexes as many again.
        assert blocks < 3_000, (name, blocks)
        if name not in {"an unknown subject", "resource type, action, decision", "subject and decision"}:
            assert found > 0, name
