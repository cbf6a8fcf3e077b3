"""SQL statements: what each does, to which tables, and whether a condition limits it.

A parser reads SQL in the dialect it is told; the database may read it otherwise. So a statement has a kind only when
every part of it has a known form. Everything else is `unknown`, which policies treat as destructive: what cannot be
parsed, what the parser keeps as opaque text, calls of functions that are not known to be pure, code (DO, EXEC, CALL,
CREATE FUNCTION), and texts with constructs that databases, or modes of one database, read differently.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ErrorLevel
from sqlglot.parser import Parser
from sqlglot.parser import logger as parser_log
from sqlglot.tokenizer_core import Token, TokenType

from app.core import members
from app.core.condition import limits
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

_POINTER = "/change/statement"

# Parsing costs about 10 us a token, and nothing else runs meanwhile: longer texts are for people.
MAX_TEXT = 32 * 1024
MAX_TOKENS = 5_000
# The parser takes up to ten frames for each level, and Python gives it a thousand.
MAX_NESTING = 32
# `a AND b AND c ...` is a tree as deep as it is long; what reads it here recurses.
MAX_TREE_DEPTH = 200
# The parser may go back and try again: nested `ARRAY[ARRAY[...` doubles its work with each level. What people write
# takes one or two moves a token; beyond this the text leads the parser astray.
MAX_MOVES_PER_TOKEN = 20


class SqlDialect(StrEnum):
    """The dialects that are accepted, under the names that sqlglot gives them."""

    POSTGRES = "postgres"
    MYSQL = "mysql"
    SQLITE = "sqlite"
    TSQL = "tsql"
    ORACLE = "oracle"
    BIGQUERY = "bigquery"
    SNOWFLAKE = "snowflake"
    REDSHIFT = "redshift"
    DATABRICKS = "databricks"
    SPARK = "spark"
    DUCKDB = "duckdb"
    CLICKHOUSE = "clickhouse"
    TRINO = "trino"


class StatementKind(StrEnum):
    """What a statement does."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    TRUNCATE = "truncate"
    CREATE = "create"
    ALTER = "alter"
    DROP = "drop"
    GRANT = "grant"
    REVOKE = "revoke"
    COPY = "copy"
    TRANSACTION = "transaction"
    SET = "set"
    SHOW = "show"
    EXPLAIN = "explain"
    UNKNOWN = "unknown"


# The parser reports what it does not know to a log; here that is an answer, not an event.
parser_log.addFilter(lambda _: False)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Texts that not every reader reads alike, by database or by its mode. One such construct makes the whole text unknown.
_AMBIGUOUS = re.compile(
    r"""
      /\*!|/\*[Mm]!            # MySQL and MariaDB run what is in such a comment
    | \\['"`]                  # an escaped quote, or a backslash and the end of the text: a matter of mode
    | \b[uU]&['"]              # PostgreSQL: escapes inside names, unknown to the parser
    | \{[{%#]                  # templates, which the parser takes for comments or values
    | \r(?!\n)                 # a lone carriage return ends a comment in PostgreSQL, not in MySQL
    | [^\S \t\r\n]             # blanks that are part of a name elsewhere
    | [\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]
    """,
    re.VERBOSE,
)
_EXPLAIN_OPTIONS = re.compile(
    r"""\s*(?:
        \((?P<list>[A-Za-z_0-9 ,'\s]*)\)
      | (?P<words>(?:(?:ANALYZE|ANALYSE|VERBOSE|EXTENDED|FORMATTED|LOGICAL|CODEGEN|COST|QUERY\s+PLAN|PLAN\s+FOR
        |USING\s+(?:TEXT|JSON|TABULAR)|FORMAT\s*=\s*\w+)\s+)*)
    )\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_ANALYZE = re.compile(r"\bANALY[ZS]E\b", re.IGNORECASE)

# T-SQL needs no semicolon between statements; these words start one (or, TOP, belong to one) and are no names there
# unless in brackets, but the parser takes some of them for names.
_TSQL_WORDS = _words(
    """
    ALTER BACKUP BEGIN BREAK BULK CHECKPOINT CLOSE COMMIT CONTINUE CREATE DBCC DEALLOCATE DECLARE DELETE DENY
    DROP ELSE END EXEC EXECUTE FETCH GO GOTO GRANT IF INSERT KILL MERGE OPEN PRINT RAISERROR READTEXT
    RECONFIGURE RESTORE RETURN REVERT REVOKE ROLLBACK SAVE SET SETUSER SHUTDOWN THROW TOP TRUNCATE UPDATE UPDATETEXT
    USE WAITFOR WHILE WRITETEXT
    """
)
# `SELECT ... INTO t` makes a table in these; elsewhere it fills a variable or writes a file.
_INTO_MAKES_TABLE = frozenset({SqlDialect.POSTGRES, SqlDialect.REDSHIFT, SqlDialect.TSQL})

_ROOTS: tuple[tuple[tuple[type[exp.Expr], ...], StatementKind], ...] = (
    ((exp.Select, exp.SetOperation, exp.Subquery, exp.Values), StatementKind.SELECT),
    ((exp.Insert,), StatementKind.INSERT),
    ((exp.Update,), StatementKind.UPDATE),
    ((exp.Delete,), StatementKind.DELETE),
    ((exp.Merge,), StatementKind.MERGE),
    ((exp.TruncateTable,), StatementKind.TRUNCATE),
    ((exp.Create,), StatementKind.CREATE),
    ((exp.Alter, exp.Comment), StatementKind.ALTER),
    ((exp.Drop,), StatementKind.DROP),
    ((exp.Grant,), StatementKind.GRANT),
    ((exp.Revoke,), StatementKind.REVOKE),
    ((exp.Copy,), StatementKind.COPY),
    ((exp.Transaction, exp.Commit, exp.Rollback), StatementKind.TRANSACTION),
    ((exp.Set, exp.Use), StatementKind.SET),
    ((exp.Show, exp.Describe), StatementKind.SHOW),
)
_WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.TruncateTable, exp.Alter, exp.Copy)
_CHANGES_TABLES = frozenset(
    {StatementKind.INSERT, StatementKind.UPDATE, StatementKind.DELETE, StatementKind.MERGE, StatementKind.TRUNCATE}
)
# What CREATE may make: things without code in them.
_PASSIVE = frozenset({"TABLE", "VIEW", "INDEX", "SCHEMA", "DATABASE", "SEQUENCE"})

# Functions without side effects in every dialect that has them: by name where the parser has no class for them, else as
# its classes. Any other may be the user's own, or one that reads files, opens connections or runs programs.
_PURE_NAMES = _words(
    """
    age array_length gen_random_uuid getdate getutcdate json_build_object jsonb_build_object jsonb_set newid now random
    sysdate sysdatetime to_json to_jsonb
    """
)
_PURE = _words(
    """
    And Or Xor Cast TryCast Convert If Case Coalesce Greatest Least Nullif Nvl2 Exists Collate
    Abs Ceil Floor Round Trunc Sign Sqrt Cbrt Exp Ln Log Pow Acos Asin Atan Atan2 Cos Sin Tan Degrees Radians
    Rand
    Ascii Chr Concat ConcatWs EndsWith Initcap Left Length Lower Pad Repeat Replace Reverse Right Split
    SplitPart StartsWith StrPosition Stuff Substring SubstringIndex Translate Trim Upper ToChar ToNumber
    RegexpLike RegexpILike RegexpExtract RegexpReplace RegexpSplit RegexpCount RegexpInstr MD5 MD5Digest SHA
    SHA2 Hex Unhex FromBase64 ToBase64
    CurrentDate CurrentDatetime CurrentTime CurrentTimestamp CurrentTimestampLTZ Localtime Localtimestamp
    UtcDate UtcTime UtcTimestamp AddMonths MonthsBetween DateAdd DateDiff DateSub DatetimeAdd DatetimeDiff
    DatetimeSub TimeAdd TimeDiff TimeSub TimestampAdd TimestampDiff TimestampSub TsOrDsAdd TsOrDsDiff DateTrunc
    DatetimeTrunc TimestampTrunc TimeTrunc Day DayOfMonth DayOfWeek DayOfWeekIso DayOfYear Extract Hour Minute
    Month Quarter Second Week WeekOfYear Year LastDay Date Datetime Time Timestamp DateFromParts StrToDate
    StrToTime TimeToStr TimeStrToTime TsOrDsToDate TsOrDsToTimestamp UnixToTime TimeToUnix DateStrToDate
    MakeInterval DateBin
    AnyValue ApproxDistinct ArgMax ArgMin ArrayAgg Avg Corr Count CountIf CovarPop CovarSamp CumeDist DenseRank
    First FirstValue GroupConcat Grouping Lag Last LastValue Lead LogicalAnd LogicalOr Max Median Min Mode Ntile
    NthValue PercentileCont PercentileDisc PercentRank Quantile ApproxQuantile Rank RowNumber Stddev StddevPop
    StddevSamp Sum Variance VariancePop
    Array ArraySize ArrayContains ArrayToString StringToArray ArrayConcat ArrayAppend Struct Unnest
    GenerateSeries ExplodingGenerateSeries JSONExtract JSONExtractScalar JSONBExtract JSONBExtractScalar
    JSONBContains JSONObject JSONArray JSONArrayAgg JSONObjectAgg JSONExtractArray ParseJSON
    CurrentUser SessionUser CurrentRole CurrentSchema CurrentDatabase CurrentCatalog Uuid
    """
)
# Every other part of a statement that is known.
_KNOWN = _words(
    """
    Identifier Column Table TableAlias Alias Aliases Dot Star Literal Null Boolean Var Parameter
    SessionParameter Placeholder BitString Heredoc HexString National RawString DataType DataTypeParam PseudoType
    ObjectIdentifier
    Interval IntervalSpan
    Add Sub Mul Div IntDiv Mod Neg Paren Not EQ NEQ NullSafeEQ NullSafeNEQ GT GTE LT LTE Is In Between Like
    ILike SimilarTo Glob Escape DPipe BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitwiseLeftShift
    BitwiseRightShift Overlaps Any All AtTimeZone Bracket Slice Distinct Tuple Adjacent Distance
    Select Union Except Intersect Subquery Values With CTE From Join Lateral Where Group Cube Rollup
    GroupingSets Having Qualify Order Ordered Limit LimitOptions Fetch Offset Window WindowSpec Filter
    WithinGroup IgnoreNulls RespectNulls HavingMax Lock TableSample WithTableHint Into JSONPath JSONPathRoot
    JSONPathKey JSONPathSubscript JSONKeyValue
    Insert Update Delete Merge Whens When OnConflict Returning Schema TruncateTable Copy Credentials
    CopyParameter Drop DropPrimaryKey Alter AlterColumn AlterRename RenameColumn ModifyColumn AddConstraint
    Create ColumnDef ColumnPosition Index IndexParameters Reference ForeignKey PrimaryKey Constraint
    ColumnConstraint Comment Properties Cluster CharacterSet Grant Revoke GrantPrivilege GrantPrincipal
    Transaction Commit Rollback Set SetItem Use Show Describe SequenceProperties AutoIncrementColumnConstraint
    CharacterSetColumnConstraint CheckColumnConstraint CollateColumnConstraint CommentColumnConstraint
    ComputedColumnConstraint DefaultColumnConstraint GeneratedAsIdentityColumnConstraint NotNullColumnConstraint
    OnUpdateColumnConstraint PrimaryKeyColumnConstraint UniqueColumnConstraint EngineProperty
    CharacterSetProperty CollateProperty LikeProperty MaterializedProperty PartitionedByProperty
    SchemaCommentProperty TemporaryProperty TransientProperty UnloggedProperty WithDataProperty
    AutoIncrementProperty OnProperty
    """
)


class _LedAstrayError(Exception):
    """The parser has made more moves than any real statement needs."""


class _Watched(Parser):
    """A parser that counts its moves."""

    moves_left = 0

    def _advance(self, times: int = 1) -> None:
        self.moves_left -= 1
        if self.moves_left < 0:
            raise _LedAstrayError
        super()._advance(times)


def _watched(name: SqlDialect) -> tuple[Dialect, type[_Watched]]:
    dialect = Dialect.get_or_raise(name.value)
    return dialect, type(f"Watched_{name}", (_Watched, dialect.parser_class), {})


_DIALECTS = {name: _watched(name) for name in SqlDialect}


def parse(statement: Any) -> list[JsonObject]:
    """Read `{dialect, text}` into one object per statement, in the order of the text, nested writes after their holder.

    Each has: `kind` (a `StatementKind`), `object` (what CREATE, ALTER, DROP, TRUNCATE are about: `table`, `index` ...,
    else ""), `tables` (all that are read or changed) and `targets` (those that are changed), both sorted, lower case,
    qualified as in the text (`users` and `public.users` are two names; a part with a dot in it stands in double
    quotes), `functions` (those called that are not known to be pure: not empty means `unknown`), `has_where` (for
    select, update and delete: a condition that is not true for every row, see `app.core.condition.limits`),
    `destructive` (unknown, drop, truncate; update or delete without such a condition; merge that deletes, insert that
    overwrites, create or replace of a table, alter that does more than add) and `text`. Of an `unknown` statement the
    tables are what could be read, not all that there is.

    A statement that changes data inside another one (in a WITH, under EXPLAIN ANALYZE) is an object of its own. A text
    longer than `MAX_TEXT` or `MAX_TOKENS`, or with constructs that databases read differently, is one `unknown`; a
    statement that cannot be parsed, or nests deeper than `MAX_NESTING`, is `unknown`, and those around it are what they
    are.

    Raises: FirewallError(MALFORMED) for a wrong shape, a dialect that is not accepted, a text without any statement.
    Does not check: that the statement is valid, that its tables exist, and what triggers, rules and views make of it.
    """
    if not isinstance(statement, dict):
        raise members.refuse_type(statement, expected="an object with `dialect` and `text`", pointer=_POINTER)
    members.refuse_unknown(statement, known=("dialect", "text"), pointer=_POINTER)
    name = members.text(statement, "dialect", pointer=_POINTER)
    try:
        dialect = SqlDialect(name)
    except ValueError:
        raise FirewallError(
            Kind.MALFORMED,
            f"unknown dialect `{name[:80]}`",
            pointer=f"{_POINTER}/dialect",
            fix=f"use one of {members.listed(SqlDialect)}",
        ) from None
    text = members.text(statement, "text", pointer=_POINTER)
    if len(text) > MAX_TEXT or _AMBIGUOUS.search(text) is not None or _nested_comment(text):
        return [_unknown(text)]
    found = _read(text, dialect=dialect)
    if not found:
        raise FirewallError(Kind.MALFORMED, "no statement in the text", pointer=f"{_POINTER}/text")
    return found


def _unknown(text: str, *, functions: tuple[str, ...] = ()) -> JsonObject:
    return {
        "kind": StatementKind.UNKNOWN.value,
        "object": "",
        "tables": [],
        "targets": [],
        "functions": list(functions),
        "has_where": False,
        "destructive": True,
        "text": text,
    }


def _nested_comment(text: str) -> bool:
    """Whether a comment starts inside a comment: PostgreSQL then waits for two ends, MySQL for one."""
    start = text.find("/*")
    while start >= 0:
        end = text.find("*/", start + 2)
        if end < 0 or text.find("/*", start + 2, end) >= 0:
            return True
        start = text.find("/*", end + 2)
    return False


def _read(text: str, *, dialect: SqlDialect, explained: bool = False) -> list[JsonObject]:
    """Take a text apart at its semicolons and read each statement."""
    try:
        tokens = _DIALECTS[dialect][0].tokenize(text)
    except Exception:  # noqa: BLE001 - whatever goes wrong in the tokenizer, the text is not understood
        return [_unknown(text)]
    if len(tokens) > MAX_TOKENS:
        return [_unknown(text)]
    found: list[JsonObject] = []
    chunk: list[Token] = []
    for token in tokens:
        if token.token_type is not TokenType.SEMICOLON:
            chunk.append(token)
        elif chunk:
            found.extend(_statement(chunk, text, dialect=dialect, explained=explained))
            chunk = []
    if chunk:
        found.extend(_statement(chunk, text, dialect=dialect, explained=explained))
    return found


def _statement(chunk: list[Token], text: str, *, dialect: SqlDialect, explained: bool) -> list[JsonObject]:
    """Read one statement and those inside it."""
    own = text[chunk[0].start : chunk[-1].end + 1]
    if chunk[0].text.upper() == "EXPLAIN" and len(chunk) > 1:
        return [_unknown(own)] if explained else _explained(own, dialect=dialect)
    root = _tree(chunk, text, dialect=dialect)
    if root is None:
        return [_unknown(own)]
    nodes = [root, *(node for node in root.walk() if node is not root and _writes(node))]
    return [_described(node, own, dialect=dialect) for node in nodes]


def _explained(text: str, *, dialect: SqlDialect) -> list[JsonObject]:
    """EXPLAIN plans a statement; with ANALYZE it also runs it."""
    rest = text[len("EXPLAIN") :]
    options = _EXPLAIN_OPTIONS.match(rest)
    if options is None:  # pragma: no cover - every part of the expression is optional
        return [_unknown(text)]
    inner = _read(rest[options.end() :], dialect=dialect, explained=True)
    if not inner or any(statement["kind"] == StatementKind.UNKNOWN for statement in inner):
        return [_unknown(text)]
    plan = {
        **_unknown(text),
        "kind": StatementKind.EXPLAIN.value,
        "tables": sorted({table for statement in inner for table in statement["tables"]}),
        "destructive": False,
    }
    return [plan, *inner] if _ANALYZE.search(options.group()) else [plan]


def _tree(chunk: list[Token], text: str, *, dialect: SqlDialect) -> exp.Expr | None:
    """Parse one statement; None where the parser does not understand it, in whichever way it says so."""
    depth = deepest = 0
    for token in chunk:
        if token.token_type in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif token.token_type in _CLOSING:
            depth -= 1
    if deepest > MAX_NESTING:
        return None
    settings, parser_class = _DIALECTS[dialect]
    parser = parser_class(dialect=settings, error_level=ErrorLevel.IMMEDIATE)
    parser.moves_left = MAX_MOVES_PER_TOKEN * (len(chunk) + 10)
    try:
        trees = parser.parse(chunk, text)
    except Exception:  # noqa: BLE001 - the parser also fails with AttributeError, RecursionError and others
        return None
    return trees[0] if len(trees) == 1 and trees[0] is not None and _is_shallow(trees[0]) else None


def _is_shallow(root: exp.Expr) -> bool:
    level = [root]
    for _ in range(MAX_TREE_DEPTH):
        level = [child for node in level for child in node.iter_expressions()]
        if not level:
            return True
    return False


_OPENING = frozenset({TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE})
_CLOSING = frozenset({TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END})


def _writes(node: exp.Expr) -> bool:
    """Whether a node inside a statement is a statement that changes something by itself."""
    if isinstance(node, exp.Select):
        return node.args.get("into") is not None
    # The branches of MERGE and the DROP COLUMN of ALTER are parts of those.
    return isinstance(node, _WRITES) and node.find_ancestor(exp.Whens, exp.Alter) is None


def _described(node: exp.Expr, text: str, *, dialect: SqlDialect) -> JsonObject:
    """Say what one statement does."""
    kind = next((kind for classes, kind in _ROOTS if isinstance(node, classes)), StatementKind.UNKNOWN)
    what = str(node.args.get("kind") or "") if isinstance(node, exp.Create | exp.Alter | exp.Drop | exp.Comment) else ""
    if node.args.get("into") is not None:
        kind, what = StatementKind.CREATE, "TABLE"
    if kind is StatementKind.TRUNCATE:
        what = "TABLE"
    functions = sorted({_function_name(called) for called in node.find_all(exp.Func) if not _is_pure(called)})
    if functions or _is_opaque(node, dialect=dialect):
        kind = StatementKind.UNKNOWN
    targets = _targets(node)
    if not targets and kind in _CHANGES_TABLES:
        kind = StatementKind.UNKNOWN
    reads = [table for table in node.find_all(exp.Table) if not _is_cte(table)]
    aliases = {table.alias.lower() for table in reads if table.alias}
    tables = {_name(table) for table in reads if table.db or table.alias or table.name.lower() not in aliases}
    target_names = {_name(table) for table in targets}
    if isinstance(node, exp.Use):
        tables.clear()
    has_where = kind is not StatementKind.UNKNOWN and _has_where(node)
    return {
        "kind": kind.value,
        "object": what.lower(),
        "tables": sorted(name for name in tables | target_names if name),
        "targets": sorted(name for name in target_names if name),
        "functions": functions,
        "has_where": has_where,
        "destructive": _is_destructive(node, kind=kind, has_where=has_where),
        "text": text,
    }


def _is_pure(called: exp.Func) -> bool:
    """A call of a function known to be pure, by its bare name: with a schema before it, it is somebody's own."""
    qualified = isinstance(called.parent, exp.Dot) or (isinstance(called.parent, exp.Table) and bool(called.parent.db))
    if isinstance(called, exp.Anonymous):
        return called.name.lower() in _PURE_NAMES and not qualified
    return type(called).__name__ in _PURE and not qualified


def _function_name(called: exp.Func) -> str:
    name = called.name if isinstance(called, exp.Anonymous | exp.AnonymousAggFunc) else called.sql_name()
    parent = called.parent
    if isinstance(parent, exp.Table) and parent.db:
        name = f"{parent.db}.{name}"
    elif isinstance(parent, exp.Dot):
        name = ".".join([*(part.name for part in parent.this.find_all(exp.Identifier, bfs=False)), name])
    return name.lower()


def _is_opaque(root: exp.Expr, *, dialect: SqlDialect) -> bool:
    """Whether any part of a statement is of no known form, or of one that hides what happens."""
    if isinstance(root, exp.Create) and str(root.args["kind"]).upper() not in _PASSIVE:
        return True
    if isinstance(root, exp.Copy) and not _copies_stream(root):
        return True
    if isinstance(root, exp.Describe) and not isinstance(root.this, exp.Table):
        return True
    if isinstance(root, exp.Use) and str(root.args.get("kind") or "").upper() not in {
        "",
        "DATABASE",
        "SCHEMA",
        "WAREHOUSE",
    }:
        return True  # another role has other rights
    if isinstance(root, exp.Delete) and not _names_its_tables(root):
        return True
    return any(_is_opaque_part(node, dialect=dialect) for node in root.walk())


def _names_its_tables(delete: exp.Delete) -> bool:
    """`DELETE u FROM users AS u`: whether every name before FROM is one of a table after it."""
    named = [table for place in delete.args.get("tables") or [] for table in _plain_tables(place)]
    tables = [table for table in delete.find_all(exp.Table) if all(table is not other for other in named)]
    known = {(table.alias or table.name).lower() for table in tables}
    return not delete.args.get("this") or all(table.name.lower() in known for table in named)


def _is_opaque_part(node: exp.Expr, *, dialect: SqlDialect) -> bool:
    match node:
        case exp.Func():
            return False  # judged by name
        case exp.Identifier():
            # A name with a path in it is a file to DuckDB and Spark.
            return (
                any(mark in node.name for mark in "/\\:")
                or (dialect is SqlDialect.DUCKDB and "." in node.name)
                or (dialect is SqlDialect.TSQL and not node.quoted and node.name.upper() in _TSQL_WORDS)
            )
        case exp.Table():
            # DROP SCHEMA names a table that has only the part before the dot.
            return not isinstance(node.this or node.args.get("db"), exp.Identifier | exp.Dot | exp.Func)
        case exp.Into():
            return dialect not in _INTO_MAKES_TABLE or not isinstance(node.this, exp.Table | exp.Schema)
        case _:
            return type(node).__name__ not in _KNOWN


def _copies_stream(copy: exp.Copy) -> bool:
    """COPY between a table and the client, as PostgreSQL has it; not a file, a program or a bucket."""
    files = copy.args.get("files") or []
    return len(files) == 1 and isinstance(files[0], exp.Identifier) and files[0].name.upper() in {"STDIN", "STDOUT"}


def _targets(node: exp.Expr) -> list[exp.Table]:
    """The tables that a statement changes, behind their aliases."""
    match node:
        case exp.Insert() | exp.Merge() | exp.Create() | exp.Alter() | exp.Copy() | exp.Comment():
            places: list[Any] = [node.this]
        case exp.Update():
            # MySQL updates joined tables; which of them, only the schema knows: all.
            return [_resolved(table, node) for table in _plain_tables(node.this)]
        case exp.Delete():
            places = node.args.get("tables") or [node.this]
            return [_resolved(table, node) for place in places for table in _plain_tables(place)]
        case exp.Drop():
            places = node.args.get("tables") or []
        case exp.TruncateTable():
            places = node.expressions
        case exp.Grant() | exp.Revoke():
            places = [node.args.get("securable")]
        case exp.Select() if node.args.get("into") is not None:
            places = [node.args["into"].this]
        case _:
            return []
    first = (next(_plain_tables(place), None) for place in places if isinstance(place, exp.Expr))
    return [table for table in first if table is not None]


def _plain_tables(place: exp.Expr) -> Iterator[exp.Table]:
    """Tables named at a place, not those that a subquery there reads."""
    for table in place.find_all(exp.Table):
        node: exp.Expr | None = table
        while node is not None and node is not place and not isinstance(node, exp.Query):
            node = node.parent
        if node is place:
            yield table


def _resolved(table: exp.Table, statement: exp.Expr) -> exp.Table:
    """`UPDATE u ... FROM users AS u` changes `users`."""
    if table.db or table.alias:
        return table
    return next(
        (other for other in statement.find_all(exp.Table) if other.alias.lower() == table.name.lower()),
        table,
    )


def _name(table: exp.Table) -> str:
    """The qualified name of a table in lower case; "" for a function in its place."""
    if isinstance(table.this, exp.Func):
        return ""
    parts = [part.name.lower() for part in table.parts]
    return ".".join(f'"{part}"' if "." in part else part for part in parts)


def _is_cte(table: exp.Table) -> bool:
    """Whether a table name means a WITH of an enclosing query, and no table."""
    if table.db:
        return False
    name = table.name.lower()
    node: exp.Expr = table
    while (parent := node.parent) is not None:
        if isinstance(parent, exp.With):
            # Inside a WITH that is not recursive only the queries before this one are known.
            visible = parent.expressions
            if not parent.args.get("recursive"):
                visible = visible[: next(i for i, cte in enumerate(visible) if cte is node)]
            if any(cte.alias.lower() == name for cte in visible):
                return True
            # The query that the WITH stands before has nothing to add: go on above it.
            node = parent.parent or parent
            continue
        declared = parent.args.get("with_")
        if declared is not None and any(cte.alias.lower() == name for cte in declared.expressions):
            return True
        node = parent
    return False


def _has_where(node: exp.Expr) -> bool:
    match node:
        case exp.SetOperation():
            return _has_where(node.left) and _has_where(node.right)
        case exp.Subquery():
            return _has_where(node.this)
        case exp.Select() | exp.Update() | exp.Delete():
            where = node.args.get("where")
            return where is not None and limits(where.this)
        case _:
            return False


def _is_destructive(node: exp.Expr, *, kind: StatementKind, has_where: bool) -> bool:
    """Whether a statement may lose data that nobody named row by row."""
    match kind:
        case StatementKind.UNKNOWN | StatementKind.DROP | StatementKind.TRUNCATE:
            return True
        case StatementKind.UPDATE | StatementKind.DELETE:
            return not has_where
        case StatementKind.MERGE:
            branches = [when.args.get("then") for when in node.find_all(exp.When)]
            return any(
                isinstance(branch, exp.Delete) or (isinstance(branch, exp.Var) and branch.name.upper() == "DELETE")
                for branch in branches
            )
        case StatementKind.INSERT:
            return bool(node.args.get("overwrite")) or str(node.args.get("alternative") or "").upper() == "REPLACE"
        case StatementKind.CREATE:
            return bool(node.args.get("replace")) and str(node.args.get("kind")).upper() == "TABLE"
        case StatementKind.ALTER:
            actions = node.args.get("actions") or []
            return isinstance(node, exp.Alter) and not all(
                isinstance(action, exp.ColumnDef | exp.AddConstraint) for action in actions
            )
        case _:
            return False
