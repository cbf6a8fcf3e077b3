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


def limits(condition: exp.Expr, *, negated: bool = False) -> bool:
    """Tell whether a condition may be false for some row, as far as its text alone can show.

    The doubt is on the safe side: only what has the form of a real limit counts. A comparison counts when its two sides
    have no column in common and at least one side has a column (`id = 3`, `a.id = b.id`), so `1 = 1`, `id = id` and
    `id >= id - 1` do not; `AND` counts when one part does, `OR` when all parts do and no two of them can cover every
    value of one column. `IN` and `EXISTS` with a subquery count when the subquery is limited itself or reads another
    table. CASE, function calls and everything else do not count.

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
            return _apart(condition.this, condition.args["low"], condition.args["high"])
        case exp.Is():
            return bool(_columns(condition.this))
        case exp.In():
            query = condition.args.get("query")
            if query is not None:
                return bool(_columns(condition.this)) and _limited_query(query, outside=condition)
            return bool(condition.expressions) and _apart(condition.this, *condition.expressions)
        case exp.Exists():
            return _limited_query(condition.this, outside=None)
        case _ if isinstance(condition, _COMPARISONS):
            sides = (condition.this, condition.expression)
            return (
                _apart(*sides)
                and not _quoted_name(condition)
                and not (isinstance(condition, _OPEN) and any(isinstance(side, _NEVER_NEGATIVE) for side in sides))
            )
        case _ if isinstance(condition, (*_PATTERNS, exp.Escape)):
            return _pattern(condition)
        case _:
            return False


def _pattern(condition: exp.Expr) -> bool:
    """A match against a pattern that not every text has."""
    if isinstance(condition, exp.Escape):
        return isinstance(condition.this, _PATTERNS) and _pattern(condition.this)
    pattern = condition.args.get("expression")
    if not isinstance(pattern, exp.Expr):
        return False
    if isinstance(pattern, exp.Literal) and (pattern.name in _ANY_TEXT or not pattern.name.strip("%_*")):
        return False
    return _apart(condition.this, pattern)


def _columns(node: exp.Expr) -> set[str]:
    """The columns that an expression reads, by name alone: `t.id` and `id` may be one."""
    return {column.name.lower() for column in node.find_all(exp.Column)}


def _qualified(node: exp.Expr) -> set[tuple[str, str]]:
    return {(column.table.lower(), column.name.lower()) for column in node.find_all(exp.Column)}


def _apart(*sides: exp.Expr) -> bool:
    """Whether the first side is about other columns than the rest, and there is a column at all.

    `a.id = b.id` compares two columns; with a qualifier missing, `id = t.id` may compare one with itself.
    """
    first = _qualified(sides[0])
    rest = {column for side in sides[1:] for column in _qualified(side)}
    if not first and not rest:
        return False
    return not any(
        name == other and (table == other_table or not table or not other_table)
        for table, name in first
        for other_table, other in rest
    )


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


def _limited_query(query: exp.Expr, *, outside: exp.Expr | None) -> bool:
    """Whether a subquery may leave out rows: it is limited itself, or reads another table than what is `outside`."""
    select = query.this if isinstance(query, exp.Subquery) else query
    if not isinstance(select, exp.Select):
        return False
    where = select.args.get("where")
    if where is not None and limits(where.this):
        return True
    if outside is None:
        return False
    target = outside.find_ancestor(exp.Delete, exp.Update, exp.Select)
    own = {table.name.lower() for table in select.find_all(exp.Table)}
    others = {table.name.lower() for table in target.find_all(exp.Table)} - own if target is not None else set()
    return bool(own) and bool(others)
