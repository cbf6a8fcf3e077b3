"""SQL: what statements do, and what nobody can tell."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import statements
from app.core.statements import SqlDialect, StatementKind, parse
from app.errors import FirewallError, Kind


def _read(text: str, dialect: str = "postgres") -> list[dict[str, Any]]:
    return parse({"dialect": dialect, "text": text})


def _one(text: str, dialect: str = "postgres") -> dict[str, Any]:
    (found,) = _read(text, dialect)
    return found


@pytest.mark.parametrize(
    ("dialect", "text", "kind", "tables", "targets", "has_where", "destructive"),
    [
        ("postgres", "SELECT * FROM Users u JOIN public.orders o ON o.uid = u.id WHERE u.id = 1", "select", ["public.orders", "users"], [], True, False),
        ("postgres", "VALUES (1)", "select", [], [], False, False),
        ("postgres", "TABLE t", "select", ["t"], [], False, False),
        ("postgres", "(SELECT a FROM t WHERE a = 1)", "select", ["t"], [], True, False),
        ("postgres", "SELECT a FROM t WHERE a = 1 UNION SELECT b FROM u", "select", ["t", "u"], [], False, False),
        ("postgres", "SELECT a::text, b->>'x', date_trunc('day', c), count(*) OVER (PARTITION BY a ORDER BY b) FROM t FOR UPDATE", "select", ["t"], [], False, False),
        ("postgres", "INSERT INTO t (a) SELECT b FROM s ON CONFLICT (a) DO UPDATE SET b = 1", "insert", ["s", "t"], ["t"], False, False),
        ("postgres", "UPDATE orders SET x = now() WHERE id = 3", "update", ["orders"], ["orders"], True, False),
        ("postgres", "UPDATE t SET a = 1 FROM u WHERE t.id = u.id", "update", ["t", "u"], ["t"], True, False),
        ("postgres", "UPDATE t SET a = 1", "update", ["t"], ["t"], False, True),
        ("postgres", 'DELETE FROM "Users" WHERE id = $1', "delete", ["users"], ["users"], True, False),
        ("postgres", 'DELETE FROM "a.b" WHERE id = 1', "delete", ['"a.b"'], ['"a.b"'], True, False),
        ("postgres", "DELETE FROM t WHERE 1 = 1", "delete", ["t"], ["t"], False, True),
        ("postgres", "DELETE FROM t USING u WHERE t.id = u.id", "delete", ["t", "u"], ["t"], True, False),
        ("postgres", "MERGE INTO t USING s ON t.i = s.i WHEN MATCHED THEN DELETE", "merge", ["s", "t"], ["t"], False, True),
        ("postgres", "MERGE INTO t USING s ON t.i = s.i WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT (a) VALUES (1)", "merge", ["s", "t"], ["t"], False, False),
        ("postgres", "TRUNCATE a, b.c", "truncate", ["a", "b.c"], ["a", "b.c"], False, True),
        ("postgres", "DROP TABLE IF EXISTS a, b.c CASCADE", "drop", ["a", "b.c"], ["a", "b.c"], False, True),
        ("postgres", "DROP SCHEMA x CASCADE", "drop", ["x"], ["x"], False, True),
        ("postgres", "CREATE TABLE n AS SELECT * FROM t", "create", ["n", "t"], ["n"], False, False),
        ("postgres", "SELECT * INTO n FROM t", "create", ["n", "t"], ["n"], False, False),
        ("postgres", "CREATE INDEX CONCURRENTLY i ON t (a)", "create", ["t"], ["t"], False, False),
        ("postgres", "CREATE TABLE t (id bigint PRIMARY KEY, a text NOT NULL DEFAULT 'x', b int REFERENCES u (id) ON DELETE CASCADE, UNIQUE (a), CHECK (b > 0))", "create", ["t", "u"], ["t"], False, False),
        ("postgres", "ALTER TABLE t ADD COLUMN c int", "alter", ["t"], ["t"], False, False),
        ("postgres", "ALTER TABLE t DROP COLUMN c", "alter", ["t"], ["t"], False, True),
        ("postgres", "COMMENT ON TABLE t IS 'x'", "alter", ["t"], ["t"], False, False),
        ("postgres", "GRANT SELECT ON t TO x", "grant", ["t"], ["t"], False, False),
        ("postgres", "REVOKE ALL ON t FROM x", "revoke", ["t"], ["t"], False, False),
        ("postgres", "COPY t (a) FROM STDIN", "copy", ["t"], ["t"], False, False),
        ("postgres", "SET search_path = x", "set", [], [], False, False),
        ("postgres", "BEGIN", "transaction", [], [], False, False),
        ("postgres", "EXPLAIN (COSTS off) DELETE FROM t", "explain", ["t"], [], False, False),
        ("mysql", "EXPLAIN FORMAT=JSON SELECT * FROM t", "explain", ["t"], [], False, False),
        ("sqlite", "EXPLAIN QUERY PLAN DELETE FROM t", "explain", ["t"], [], False, False),
        ("mysql", "UPDATE `t` SET x = now() WHERE `id` = 1", "update", ["t"], ["t"], True, False),
        ("mysql", "DELETE a FROM users a JOIN b ON a.id = b.id WHERE b.x = 1", "delete", ["b", "users"], ["users"], True, False),
        ("mysql", "DELETE FROM a, b USING a JOIN b", "delete", ["a", "b"], ["a", "b"], False, True),
        ("mysql", "UPDATE a JOIN b ON a.id = b.id SET a.x = 1 WHERE b.y = 2", "update", ["a", "b"], ["a", "b"], True, False),
        ("mysql", "UPDATE a JOIN (SELECT id FROM c) x ON a.id = x.id SET a.x = 1", "update", ["a", "c"], ["a"], False, True),
        ("mysql", "INSERT INTO t (a) VALUES (1) ON DUPLICATE KEY UPDATE a = 2", "insert", ["t"], ["t"], False, False),
        ("mysql", "CREATE TABLE t (id int auto_increment primary key) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4", "create", ["t"], ["t"], False, False),
        ("mysql", "DESCRIBE t", "show", ["t"], [], False, False),
        ("mysql", "SHOW TABLES", "show", [], [], False, False),
        ("mysql", "USE shop", "set", [], [], False, False),
        ("tsql", "UPDATE u SET x = GETDATE() FROM users u WHERE u.id = 2", "update", ["users"], ["users"], True, False),
        ("tsql", "DELETE u FROM dbo.users u WHERE u.id = 2", "delete", ["dbo.users"], ["dbo.users"], True, False),
        ("tsql", "SELECT TOP 5 * FROM [dbo].[Users] WITH (NOLOCK) WHERE id = 1", "select", ["dbo.users"], [], True, False),
        ("tsql", "SELECT * FROM srv.db.dbo.t", "select", ["srv.db.dbo.t"], [], False, False),
        ("tsql", "TRUNCATE TABLE dbo.t", "truncate", ["dbo.t"], ["dbo.t"], False, True),
        ("sqlite", "INSERT OR REPLACE INTO t VALUES (1)", "insert", ["t"], ["t"], False, True),
        ("bigquery", "DELETE FROM `p.d.t` WHERE x = 1", "delete", ["p.d.t"], ["p.d.t"], True, False),
        ("snowflake", "INSERT OVERWRITE INTO t SELECT 1", "insert", ["t"], ["t"], False, True),
        ("snowflake", "CREATE OR REPLACE TABLE t AS SELECT 1 AS a", "create", ["t"], ["t"], False, True),
        ("snowflake", "CREATE OR REPLACE VIEW v AS SELECT 1 AS a", "create", ["v"], ["v"], False, False),
        ("tsql", "DELETE t WHERE id = 1", "delete", ["t"], ["t"], True, False),
        ("oracle", "DELETE t", "delete", ["t"], ["t"], False, True),
        ("duckdb", "FROM t", "select", ["t"], [], False, False),
    ],
)  # fmt: skip
def test_what_a_statement_does(dialect, text, kind, tables, targets, has_where, destructive):
    found = _one(text, dialect)
    assert (found["kind"], found["tables"], found["targets"], found["has_where"], found["destructive"]) == (
        kind,
        tables,
        targets,
        has_where,
        destructive,
    )
    assert found["functions"] == []
    assert found["text"] == text


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        # no statement at all, or text that the parser keeps as it is
        ("postgres", "garbage in here"), ("postgres", "foo"), ("postgres", "1"), ("postgres", "("), ("postgres", "SELECT 'a"), ("postgres", "\\! ls"),
        ("postgres", "LISTEN x"), ("postgres", "VACUUM FULL t"), ("postgres", "SET ROLE admin"), ("postgres", "ALTER USER x PASSWORD 'y'"), ("postgres", "LOCK TABLE t"),
        ("postgres", "ALTER SYSTEM SET x = 1"), ("postgres", "PREPARE p AS DELETE FROM t"), ("postgres", "EXECUTE p"), ("postgres", "CREATE EXTENSION dblink"),
        ("sqlite", "PRAGMA writable_schema=1"), ("sqlite", "ATTACH 'x' AS y"), ("mysql", "REPLACE INTO t VALUES (1)"), ("mysql", "KILL 5"), ("mysql", "FLUSH TABLES"),
        ("duckdb", "INSTALL httpfs"), ("bigquery", "EXPORT DATA OPTIONS(uri='x') AS SELECT 1"), ("snowflake", "PUT file://x @y"), ("snowflake", "USE ROLE ACCOUNTADMIN"),
        # code
        ("postgres", "DO $$ begin delete from t; end $$"), ("postgres", "CALL p()"), ("postgres", "CREATE FUNCTION f() RETURNS int AS $$ delete from t $$ LANGUAGE sql"),
        ("postgres", "CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()"), ("tsql", "EXEC sp_x"), ("tsql", "EXEC xp_cmdshell 'dir'"), ("tsql", "xp_cmdshell 'dir'"),
        ("tsql", "IF 1=1 DELETE FROM t"), ("tsql", "WHILE 1=1 DELETE FROM t"), ("oracle", "EXEC p"), ("bigquery", "CREATE MODEL m OPTIONS() AS SELECT 1"),
        # files and programs
        ("postgres", "COPY t TO PROGRAM 'rm -rf /'"), ("postgres", "COPY t FROM PROGRAM 'curl x'"), ("postgres", "COPY t FROM '/etc/passwd'"), ("duckdb", "COPY t TO 'x'"), ("snowflake", "COPY INTO t FROM @s"), ("redshift", "COPY t FROM 's3://b/k' IAM_ROLE 'x'"),
        ("duckdb", "SELECT * FROM 'x.csv'"), ("duckdb", 'SELECT * FROM "x.csv"'), ("spark", "SELECT * FROM csv.`/etc/passwd`"), ("snowflake", "SELECT * FROM @stage"),
        ("mysql", "SELECT 'x' INTO OUTFILE '/x'"), ("mysql", "SELECT 1 INTO @x"), ("mysql", "LOAD DATA INFILE 'x' INTO TABLE t"),
        # what readers read differently
        ("mysql", "SELECT 1 /*! ; DELETE FROM t */"), ("mysql", "SELECT /*!50000 1 */"), ("mysql", "SELECT 1 /*M!100000 , 2 */"), ("postgres", "SELECT 1 /* a /* b */ , 2 */"),
        ("mysql", "SELECT 'a\\' ; DROP TABLE x; -- '"), ("postgres", "SELECT 'a\\' ; DROP TABLE x; -- '"), ("postgres", 'SELECT U&"d\\0061t" FROM t'), ("postgres", "SELECT u&'d\\0061t'"),
        ("postgres", "SELECT 1 -- a\rDELETE FROM t"), ("postgres", "DELETE FROM t\u00a0WHERE id = 1"), ("postgres", "DELETE FROM t WHERE\u200b id = 1"), ("postgres", "SELECT 1 {# ; DROP TABLE x #}"),
        ("postgres", "SELECT {{ x }}"), ("postgres", "SELECT 1 /* open"), ("postgres", "SELECT 1\x0b"),
        # T-SQL without semicolons
        ("tsql", "SELECT a FROM t1 SHUTDOWN"), ("tsql", "SELECT a FROM t1 x DELETE t2"), ("tsql", "SELECT a FROM t1 DELETE t2"), ("tsql", "UPDATE t SET a = 1 WHERE id = 1 DROP TABLE u"),
        ("tsql", "DELETE FROM t\nGO"), ("tsql", "DELETE TOP (5) FROM t WHERE id = 1"), ("tsql", "CREATE TABLE a (x int) DROP TABLE b"),
        # parts that the parser knows and nobody has looked at
        ("postgres", "SELECT 1 OPERATOR(pg_catalog.+) 2"), ("mysql", "SELECT @a := 1"), ("oracle", "SELECT /*+ FULL(t) */ 1 FROM t"), ("duckdb", "PIVOT t ON x USING sum(y)"),
        ("mysql", "UPDATE (SELECT 1) x SET a = 1"), ("mysql", "DELETE z FROM a JOIN b WHERE a.i = b.i AND a.x = 1"),
        # EXPLAIN of what is not understood
        ("postgres", "EXPLAIN garbage"), ("postgres", "EXPLAIN ANALYZE EXPLAIN SELECT 1"), ("postgres", "EXPLAIN ANALYZE EXECUTE p"), ("postgres", "EXPLAIN ANALYZE SELECT dblink('x')"), ("mysql", "EXPLAIN"),
    ],
)  # fmt: skip
def test_what_nobody_can_tell_is_unknown_and_destructive(dialect, text):
    found = _read(text, dialect)
    assert found[0]["kind"] == "unknown"
    assert found[0]["destructive"] is True
    assert found[0]["has_where"] is False


@pytest.mark.parametrize(
    ("dialect", "text", "functions"),
    [
        ("postgres", "SELECT dblink('x', 'delete')", ["dblink"]),
        ("postgres", "SELECT * FROM dblink('a') AS t(x int)", ["dblink"]),
        ("postgres", "SELECT pg_read_file('/etc/passwd'), lo_import('x')", ["lo_import", "pg_read_file"]),
        ("postgres", "UPDATE t SET a = my_function(a) WHERE id = 1", ["my_function"]),
        ("postgres", "SELECT evil.upper(x) FROM t", ["evil.upper"]),
        ("postgres", "SELECT evil.now() FROM t", ["evil.now"]),
        ("postgres", "SELECT * FROM evil.f(1)", ["evil.f"]),
        ("postgres", "SELECT a.b.c(1)", ["a.b.c"]),
        ("postgres", "SELECT nextval('s')", ["nextval"]),
        ("postgres", "INSERT INTO t SELECT pg_sleep(5)", ["pg_sleep"]),
        ("postgres", "CREATE TABLE t AS SELECT dblink('x')", ["dblink"]),
        ("mysql", "SELECT LOAD_FILE('/x'), SLEEP(5)", ["load_file", "sleep"]),
        ("tsql", "SELECT * FROM OPENROWSET('a', 'b', 'c')", ["openrowset"]),
        ("tsql", "SELECT * FROM OPENQUERY(x, 'delete')", ["openquery"]),
        ("sqlite", "SELECT load_extension('x')", ["load_extension"]),
        ("duckdb", "SELECT * FROM read_csv('x')", ["read_csv"]),
        ("bigquery", "SELECT * FROM EXTERNAL_QUERY('a', 'b')", ["external_query"]),
        ("bigquery", "SELECT * FROM ML.PREDICT(MODEL m, TABLE t)", ["ml.predict"]),
        ("snowflake", "SELECT SYSTEM$X()", ["system$x"]),
        ("oracle", "SELECT utl_http.request('x') FROM dual", ["utl_http.request"]),
    ],
)
def test_functions_that_are_not_known_to_be_pure(dialect, text, functions):
    found = _one(text, dialect)
    assert (found["kind"], found["functions"]) == ("unknown", functions)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", [("select", []), ("delete", ["t"])]),
        ("WITH x AS (DELETE FROM t WHERE a = 1 RETURNING *), y AS (UPDATE u SET b = 1 RETURNING 1) INSERT INTO z SELECT * FROM x, y", [("insert", ["z"]), ("delete", ["t"]), ("update", ["u"])]),
        ("EXPLAIN ANALYZE DELETE FROM t", [("explain", []), ("delete", ["t"])]),
        ("EXPLAIN (ANALYZE, BUFFERS) DELETE FROM t", [("explain", []), ("delete", ["t"])]),
        ("explain analyze verbose WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", [("explain", []), ("select", []), ("delete", ["t"])]),
        ("CREATE TABLE n AS WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", [("create", ["n"]), ("delete", ["t"])]),
        ("SELECT 1; garbage ( ; DELETE FROM t;", [("select", []), ("unknown", []), ("delete", ["t"])]),
        ("BEGIN; UPDATE t SET a = 1 WHERE id = 3; COMMIT", [("transaction", []), ("update", ["t"]), ("transaction", [])]),
        ("SELECT 'a;b'; SELECT $$;$$; -- c ; d\n;", [("select", []), ("select", [])]),
    ],
)  # fmt: skip
def test_each_change_is_a_statement_of_its_own(text, kinds):
    assert [(found["kind"], found["targets"]) for found in _read(text)] == kinds


@pytest.mark.parametrize(
    ("text", "tables", "targets"),
    [
        ("WITH users AS (SELECT * FROM users) SELECT * FROM users", ["users"], []),
        ("WITH users AS (SELECT 1) SELECT * FROM users", [], []),
        ("WITH users AS (SELECT 1) SELECT * FROM public.users", ["public.users"], []),
        ("WITH users AS (SELECT 1) DELETE FROM users", ["users"], ["users"]),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM b", ["b"], []),
        ("WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM r) SELECT * FROM r", [], []),
        ("SELECT * FROM (WITH users AS (SELECT 1) SELECT * FROM users) x, users", ["users"], []),
    ],
)
def test_a_with_hides_a_table_only_where_it_is_known(text, tables, targets):
    found = _one(text)
    assert (found["tables"], found["targets"]) == (tables, targets)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "a," * 4000 + "a",
        "SELECT '" + "a" * statements.MAX_TEXT + "'",
        "SELECT " + "(" * 33 + "1" + ")" * 33,
        "SELECT " + "(" * 5000,
        "SELECT " + "CASE WHEN a THEN " * 40 + "1" + " END" * 40,
        "SELECT " + "ARRAY[" * 20 + "1" + "]" * 20,
        "DELETE FROM t WHERE " + " AND ".join(["a = 1"] * 500),
        "SELECT 1" + " UNION SELECT 1" * 500,
        "SELECT " + "NOT " * 2000 + "a",
        "SELECT 1" + " - 1" * 1500,
        "EXPLAIN " * 500 + "SELECT 1",
    ],
    ids=[
        "tokens",
        "text",
        "parentheses",
        "open parentheses",
        "case",
        "arrays",
        "ands",
        "unions",
        "nots",
        "minus",
        "explains",
    ],
)
def test_what_would_take_too_long_is_unknown(text):
    assert _one(text)["kind"] == "unknown"


def test_nesting_that_people_write_is_read():
    assert _one("SELECT " + "(" * 30 + "1" + ")" * 30)["kind"] == "select"
    assert _one("SELECT ARRAY[ARRAY[1, 2], ARRAY[3, 4]]")["kind"] == "select"
    assert _one("DELETE FROM t WHERE " + " AND ".join(["a = 1"] * 150))["has_where"] is True


@pytest.mark.parametrize(
    ("statement", "pointer"),
    [
        ("SELECT 1", ""),
        ({}, "/dialect"),
        ({"dialect": "postgres"}, "/text"),
        ({"dialect": "postgres", "text": ""}, "/text"),
        ({"dialect": "postgres", "text": " ; -- nothing\n ;"}, "/text"),
        ({"dialect": "postgres", "text": 1}, "/text"),
        ({"dialect": "Postgres", "text": "SELECT 1"}, "/dialect"),
        ({"dialect": "postgres", "text": "SELECT 1", "txt": ""}, "/txt"),
    ],
)
def test_what_is_no_statement_member_is_refused(statement, pointer):
    with pytest.raises(FirewallError) as caught:
        parse(statement)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, "/change/statement" + pointer)


def test_an_unknown_dialect_is_told_the_known_ones():
    with pytest.raises(FirewallError) as caught:
        _read("SELECT 1", "postgresql")
    assert caught.value.fix is not None
    assert all(f"`{dialect}`" in caught.value.fix for dialect in SqlDialect)


def test_the_parser_logs_nothing(caplog):
    with caplog.at_level(logging.DEBUG):
        _read("VACUUM FULL t; SELECT a->'$[' FROM t; DO $$ x $$")
    assert caplog.records == []


_TEXT = (
    "SELECT INSERT INTO UPDATE DELETE FROM WHERE SET WITH AS RETURNING MERGE USING ON WHEN MATCHED THEN TRUNCATE TABLE CREATE OR REPLACE VIEW INDEX ALTER DROP ADD COLUMN GRANT TO"
    " COPY STDIN EXPLAIN ANALYZE BEGIN COMMIT t u a.b \"T\" x ( ) , ; = * 1 'a' NULL true AND OR NOT IN EXISTS LIKE '%' :: int [ ] { } . -- /* */ $$ := @x $1 ? % JOIN UNION VALUES CASE"
    " END f( lower( DEFAULT USE SHOW DESCRIBE EXEC TOP RECURSIVE LIMIT INTERVAL CAST( \\ \n"
)
_WORDS = _TEXT.split(" ")


@given(st.sampled_from(list(SqlDialect)), st.lists(st.sampled_from(_WORDS), min_size=1, max_size=15).map(" ".join))
@settings(max_examples=400)
def test_any_words_are_read_or_refused(dialect, text):
    _check(dialect, text)


@given(st.sampled_from(list(SqlDialect)), st.text(min_size=1, max_size=40))
def test_any_text_is_read_or_refused(dialect, text):
    _check(dialect, text)


def _check(dialect: str, text: str) -> None:
    try:
        found = _read(text, dialect)
    except FirewallError as error:
        assert error.pointer == "/change/statement/text"  # noqa: PT017 - a refusal is one of two good outcomes
        return
    assert found
    for statement in found:
        kind = StatementKind(statement["kind"])
        assert statement["destructive"] or kind is not StatementKind.UNKNOWN
        assert set(statement["targets"]) <= set(statement["tables"])
        if kind in {StatementKind.INSERT, StatementKind.UPDATE, StatementKind.DELETE, StatementKind.MERGE}:
            assert statement["targets"]
