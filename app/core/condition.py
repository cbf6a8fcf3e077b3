"""WHERE conditions: whether one limits what a statement touches, or is true for every row."""

from sqlglot import exp

# Patterns of LIKE and of regular expressions that match every text.
_ANY_TEXT = frozenset({"", "%", "%%", "*", ".*", "^", "$", "^.*", ".*$", "^.*$", "^$|.*"})

_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_PATTERNS = (exp.Like, exp.ILike, exp.SimilarTo, exp.RegexpLike, exp.RegexpILike, exp.Glob)
# One of these and another one about the same columns can be true together for every row: `x < 5 OR x >= 5`.
_OPEN = (exp.NEQ, exp.NullSafeNEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
# `length(name) >= 0` compares a column and says nothing.
_NEVER_NEGATIVE = (exp.Length, exp.Abs, exp.ArraySize)
# What may stand around a column so that a comparison still is about its value. Arithmetic (`id - id`, `id * 0`) and
# CASE are not among them: they can make a constant of it.
_REACHES_IN = (exp.Paren, exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar, exp.Bracket)
_KEEPS_VALUE = (
    *_REACHES_IN,
    *_NEVER_NEGATIVE,
    *(exp.Cast, exp.TryCast, exp.Collate, exp.Lower, exp.Upper, exp.Trim, exp.Coalesce),
    *(exp.Date, exp.DateTrunc, exp.TimestampTrunc, exp.TsOrDsToDate, exp.Year, exp.Month, exp.Day),
)


def limits(condition: exp.Expr, *, negated: bool = False) -> bool:
    """Tell whether a condition may be false for some row, as far as its text alone can show.

    The doubt is on the safe side: only what has the form of a real limit counts.
    - A comparison counts when one side is a column (or one in a function that keeps its values apart: lower, cast,
      coalesce ...) and the other side does not have that column: `id = 3`, `a.id = b.id`; not `1 = 1`, `id = id`,
      `id - id = 0`, nor `a.id = b.id` where both are one table.
    - `AND` counts when one part does, `OR` when all parts do and no two of them can cover every value of one column.
    - `IN` with a subquery counts when that is limited itself or does not read the table in question, `EXISTS` when it
      is limited and refers to the row outside.
    CASE, other function calls and everything else do not count.

    Does not check: the data. `id > 0` counts, although it may hold for every row there is.
    """
    match condition:
        case exp.Paren():
            return limits(condition.this, negated=negated)
        case exp.Not():
            return limits(condition.this, negated=not negated)
        case exp.And() | exp.Or():
            parts = [condition.left, condition.right]
            # De Morgan: NOT (a AND b) is (NOT a) OR (NOT b).
            if isinstance(condition, exp.And) is not negated:
                return any(limits(part, negated=negated) for part in parts)
            return all(limits(part, negated=negated) for part in parts) and not _cover(condition, negated=negated)
        case exp.Column():
            return True
        case exp.Between():
            return _about_column(condition.this) and _apart(
                condition.this, condition.args["low"], condition.args["high"]
            )
        case exp.Is():
            return _is_column(condition.this)
        case exp.In():
            return _about_column(condition.this) and _in(condition)
        case exp.Exists():
            return _limited_query(condition.this) and _refers_outside(condition.this)
        case _ if isinstance(condition, _COMPARISONS):
            return _compares(condition)
        case _ if isinstance(condition, (*_PATTERNS, exp.Escape)):
            return _pattern(condition)
        case _:
            return False


def _compares(condition: exp.Expr) -> bool:
    sides = (condition.this, condition.expression)
    return (
        any(_about_column(side) for side in sides)
        and _apart(*sides)
        and not _quoted_name(condition)
        and not _self_joined(condition)
        and not (isinstance(condition, _OPEN) and any(isinstance(side, _NEVER_NEGATIVE) for side in sides))
    )


def _in(condition: exp.In) -> bool:
    query = condition.args.get("query")
    if query is None:
        return bool(condition.expressions) and _apart(condition.this, *condition.expressions)
    if _limited_query(query):
        return True
    # Without a limit the subquery has to read other tables than the statement around it.
    around = condition.find_ancestor(exp.Delete, exp.Update, exp.Select)
    own = {table.name.lower() for table in query.find_all(exp.Table)}
    every = {table.name.lower() for table in around.find_all(exp.Table)} if around is not None else set()
    return bool(own) and bool(every - own)


def _pattern(condition: exp.Expr) -> bool:
    """A match against a pattern that not every text has."""
    if isinstance(condition, exp.Escape):
        return isinstance(condition.this, _PATTERNS) and _pattern(condition.this)
    pattern = condition.args["expression"]
    if isinstance(pattern, exp.Literal) and (pattern.name in _ANY_TEXT or not pattern.name.strip("%_*")):
        return False
    return _about_column(condition.this) and _apart(condition.this, pattern)


def _is_column(side: exp.Expr) -> bool:
    """A column itself, or a part of it."""
    while isinstance(side, _REACHES_IN):
        side = side.this
    return isinstance(side, exp.Column)


def _about_column(side: exp.Expr) -> bool:
    """A column, perhaps in functions that keep its values apart, or a tuple of such."""
    if isinstance(side, exp.Tuple):
        return bool(side.expressions) and all(_about_column(part) for part in side.expressions)
    while isinstance(side, _KEEPS_VALUE):
        side = side.this
    return isinstance(side, exp.Column)


def _columns(node: exp.Expr) -> set[str]:
    """The columns that an expression reads, by name alone: `t.id` and `id` may be one."""
    return {column.name.lower() for column in node.find_all(exp.Column)}


def _qualified(node: exp.Expr) -> set[tuple[str, str]]:
    return {(column.table.lower(), column.name.lower()) for column in node.find_all(exp.Column)}


def _apart(*sides: exp.Expr) -> bool:
    """Whether the first side is about other columns than the rest.

    `a.id = b.id` compares two columns; with a qualifier missing, `id = t.id` may compare one with itself.
    """
    first = _qualified(sides[0])
    rest = {column for side in sides[1:] for column in _qualified(side)}
    return not any(
        name == other and (table == other_table or not table or not other_table)
        for table, name in first
        for other_table, other in rest
    )


def _self_joined(condition: exp.Expr) -> bool:
    """`DELETE FROM t USING t AS t2 WHERE t.id = t2.id`: one column of one table under two names."""
    one, other = condition.this, condition.expression
    if not (isinstance(one, exp.Column) and isinstance(other, exp.Column) and one.name.lower() == other.name.lower()):
        return False
    tables = list(condition.root().find_all(exp.Table))
    names = {(table.alias or table.name).lower(): table.name.lower() for table in tables}
    return names.get(one.table.lower(), one.table.lower()) == names.get(other.table.lower(), other.table.lower())


def _quoted_name(condition: exp.Expr) -> bool:
    """`id = "id"`: a text for MySQL in its default mode, and the column itself in ANSI mode."""
    sides = (condition.this, condition.expression)
    return any(
        isinstance(one, exp.Column) and isinstance(other, exp.Literal) and other.name.lower() == one.name.lower()
        for one, other in (sides, sides[::-1])
    )


def _cover(condition: exp.Expr, *, negated: bool) -> bool:
    """Whether two parts of an OR speak of the same columns in ways that together may hold for every row."""
    closed: set[frozenset[str]] = set()
    open_: set[frozenset[str]] = set()
    inverted: set[frozenset[str]] = set()
    for part, is_negated in _alternatives(condition, negated=negated):
        columns = frozenset(_columns(part))
        is_open = isinstance(part, _OPEN)
        # `x <> 1` and NOT (x = 1) leave out one value, which any other part may let in again.
        is_inverse = is_negated or isinstance(part, (exp.NEQ, exp.NullSafeNEQ)) or bool(part.args.get("negate"))
        if columns in inverted or (is_inverse and (columns in closed or columns in open_)):
            return True
        if is_open and columns in open_:
            return True
        (inverted if is_inverse else open_ if is_open else closed).add(columns)
    return False


def _alternatives(condition: exp.Expr, *, negated: bool) -> list[tuple[exp.Expr, bool]]:
    """The parts of an OR, through parentheses, NOT and further ORs; each with whether it is negated."""
    parts: list[tuple[exp.Expr, bool]] = []
    stack = [(condition, negated)]
    while stack:
        node, inverse = stack.pop()
        match node:
            case exp.Paren():
                stack.append((node.this, inverse))
            case exp.Not():
                stack.append((node.this, not inverse))
            case exp.Or() if not inverse:
                stack.extend([(node.left, False), (node.right, False)])
            case exp.And() if inverse:
                stack.extend([(node.left, True), (node.right, True)])
            case _:
                parts.append((node, inverse))
    return parts


def _limited_query(query: exp.Expr) -> bool:
    """Whether a subquery has a condition that limits it."""
    select = query.this if isinstance(query, exp.Subquery) else query
    where = select.args.get("where") if isinstance(select, exp.Select) else None
    return where is not None and limits(where.this)


def _refers_outside(query: exp.Expr) -> bool:
    """Whether a subquery names a column of a table that it does not read itself."""
    own = {(table.alias or table.name).lower() for table in query.find_all(exp.Table)}
    return any(column.table and column.table.lower() not in own for column in query.find_all(exp.Column))
