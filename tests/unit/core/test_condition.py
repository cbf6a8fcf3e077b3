import pytest
import sqlglot

from app.core.condition import limits


def _limits(condition: str, dialect: str = "postgres") -> bool:
    tree = sqlglot.parse_one(f"DELETE FROM t WHERE {condition}", dialect=dialect)
    return limits(tree.args["where"].this)


@pytest.mark.parametrize(
    "condition",
    [
        "id = 3", "3 = id", "(id = 3)", "id = $1", "t.id = u.id", "a = b", "a.x = b.x", "id IN (1, 2)", "id NOT IN (1, 2)", "id BETWEEN 1 AND 5",
        "id > 5", "id <> 5", "name LIKE 'a%'", "name ILIKE '%a%'", "name LIKE 'a!%' ESCAPE '!'", "name ~ 'abc'", "name SIMILAR TO 'a+'", "id IS NULL", "id IS NOT NULL",
        "active", "NOT active", "NOT (id = 3)", "NOT (id <> 3)", "NOT (id = 1 OR b = 2)", "id = 1 AND true", "true AND id = 1", "id = 1 OR id = 2",
        "id = 1 OR b = 2", "a IS NULL OR a = ''", "x = 5 OR x > 7", "lower(name) = 'x'", "created < now() - interval '30 days'", "id = ANY(ARRAY[1, 2])",
        "id IN (SELECT id FROM t WHERE a = 1)", "id IN (SELECT id FROM u)", "EXISTS (SELECT 1 FROM u WHERE u.id = t.id)", "(a, b) IN ((1, 2))",
        "length(name) = 3", "NOT (NOT (id = 1))", "data->>'kind' = 'x'", "data->'a' IS NULL", "cast(a AS date) = '2024-01-01'", "coalesce(a, 0) = 0", "date_trunc('day', c) = $1", "'x' = trim(lower(name))", "id IS DISTINCT FROM 4", "a > 1 OR b > 1",
    ],
)  # fmt: skip
def test_what_limits(condition):
    assert _limits(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "true", "1 = 1", "1", "'a' = 'a'", "id = id", "t.id = id", "id = (id)", "id >= id", "id >= id - 1", "id + 0 = id", "NOT false", "NOT (1 = 2)",
        "id = 1 OR true", "true OR id = 1", "id = 1 OR 1 = 1", "1 = 1 AND true", "id = 1 OR id <> 1", "id <> 1 OR id <> 2", "id = 1 OR NOT id = 1", "id IS NULL OR id IS NOT NULL",
        "id > 5 OR id <= 5", "id < 5 OR id > 3", "(id < 5) OR (b = 1 OR id >= 5)", "NOT (id = 1 AND id = 2)", "NOT (id > 5 AND id <= 9)", "id IN (1) OR id NOT IN (1)",
        "active OR NOT active", "id IN (id)", "id IN (1, id)", "1 IN (1)", "id BETWEEN id AND id", "1 BETWEEN 0 AND 2", "name LIKE '%'", "name LIKE '%%'", "name ILIKE '%'",
        "name ~ '.*'", "name ~ ''", "name LIKE name", "name LIKE '%' ESCAPE '!'", "coalesce(id, 1) = coalesce(id, 1)", "coalesce(true, active)", "1 IS NOT NULL",
        "CASE WHEN true THEN true END", "EXISTS (SELECT 1)", "EXISTS (SELECT 1 FROM u)", "EXISTS (SELECT 1 FROM u WHERE true)", "NOT EXISTS (SELECT 1 WHERE false)",
        "id IN (SELECT id FROM t)", "1 IN (SELECT 1)", "1 IN (SELECT id FROM u)", "id IN (SELECT 1 UNION SELECT 2)", "id IN (SELECT 1)", "random() < 2", "length(name) >= 0", "0 <= abs(id)", "now() > '1970-01-01'",
        "id = (SELECT id)", "EXISTS (VALUES (1))", "id - id = 0", "0 = id * 0", "id % 1 = 0", "nullif(id, id) IS NULL", "coalesce(id, 1) IS NOT NULL", "(id = id) = true",
        "(id IS NULL) IS NOT NULL", "CASE WHEN id IS NULL THEN 1 ELSE 1 END = 1", "substr(name, 1, 0) = ''", "EXISTS (SELECT 1 FROM t t2 WHERE t2.id = 1)",
        "id = id OR b = 1", "concat(name, '') LIKE '%'", "(a, 1) IN ((1, 1))", "id - id BETWEEN -1 AND 1", "name || 'x' LIKE '%x'",
    ],
)  # fmt: skip
def test_what_does_not_limit(condition):
    assert not _limits(condition)


def test_a_name_in_quotes_that_mysql_may_take_for_the_column():
    assert not _limits('id = "id"', "mysql")
    assert not _limits('"id" = id', "mysql")
    assert _limits('id = "x"', "mysql")


@pytest.mark.parametrize(
    ("text", "limited"),
    [
        ("DELETE FROM t USING t AS t2 WHERE t.id = t2.id", False),
        ("DELETE FROM t AS a USING t AS b WHERE a.id = b.id", False),
        ("UPDATE t SET a = 1 FROM t AS t2 WHERE t.id = t2.id", False),
        ("UPDATE t SET a = 1 FROM u AS t2 WHERE t.id = t2.id", True),
        ("UPDATE t SET a = 1 FROM t AS t2 WHERE t.parent = t2.id", True),
    ],
)
def test_a_table_joined_with_itself(text, limited):
    assert limits(sqlglot.parse_one(text, dialect="postgres").args["where"].this) is limited
