"""Tables at one moment: how many rows, and one digest over all of them. Knows no backup.

A row's digest is sha256 of its text form; a table's is over the sorted digests of its rows, in 256 parts, so that the
database sorts on disk what does not fit in memory. Where rows lie and in which order does not matter; any bit that
differs does. The form is that of one major version of PostgreSQL under the settings below.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from raymill.cluster.backup.manifest import TableState

Connection = psycopg.Connection[tuple[Any, ...]]

_OURS = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
    AND pg_has_role(c.relowner, 'USAGE')
ORDER BY 1, 2
"""
"""Tables of the service's role, partitions among them."""

_SETTINGS = """
SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres';
SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL search_path = pg_catalog
"""

_DIGEST = """
SELECT coalesce(sum(rows), 0)::bigint, encode(sha256(coalesce(string_agg(digest, ''::bytea ORDER BY part), '')), 'hex')
FROM (
    SELECT part, count(*) AS rows, sha256(string_agg(digest, ''::bytea ORDER BY digest)) AS digest
    FROM (
        SELECT get_byte(digest, 0) AS part, digest
        FROM (SELECT sha256(convert_to(each::text, 'UTF8')) AS digest FROM {table} AS each) AS digests
    ) AS rows
    GROUP BY part
) AS parts
"""


def ours(connection: Connection) -> list[tuple[str, str]]:
    """Schema and name of each table."""
    return [(schema, name) for schema, name in connection.execute(_OURS).fetchall()]


def states(connection: Connection) -> tuple[TableState, ...]:
    """Every table, as the connection's transaction sees it, which must be one that sees the same all along."""
    names = ours(connection)
    connection.execute(_SETTINGS)
    return tuple(_state(connection, schema, name) for schema, name in names)


def _state(connection: Connection, schema: str, name: str) -> TableState:
    statement = sql.SQL(_DIGEST).format(table=sql.Identifier(schema, name))
    row = connection.execute(statement).fetchone()
    assert row is not None
    full_name = name if schema == "public" else f"{schema}.{name}"
    return TableState(name=full_name, rows=row[0], digest=row[1])


def differences(expected: tuple[TableState, ...], found: tuple[TableState, ...]) -> list[str]:
    """What is not as it was, in words; empty when all is equal."""
    was, now = ({table.name: table for table in each} for each in (expected, found))
    told = [f"table {name} is missing" for name in was if name not in now]
    told += [f"table {name} was not there" for name in now if name not in was]
    for name in was.keys() & now.keys():
        before, after = was[name], now[name]
        if before.rows != after.rows:
            told.append(f"table {name} has {after.rows} rows, it had {before.rows}")
        elif before.digest != after.digest:
            told.append(f"table {name} has the {before.rows} rows that it had, but not the same content")
    return sorted(told)
