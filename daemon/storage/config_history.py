"""Which configuration was in force when. The newest version at or before an instant was.

Every function works in the caller's transaction.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from daemon.storage.tables import ConfigVersionRow

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
NOT_YET = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """A configuration from `applied_utc` on, until the next one.

    Attributes:
        sha256: Of the file as it was, secrets included.
        file: Where it lay.
        text: The file, secrets hidden, every line in its place.
        recipes: `CategoryConfig.recipe` of each category.
    """

    applied_utc: datetime
    sha256: str
    file: str
    text: str
    recipes: Mapping[str, str]


def record(connection: Connection, line: str, version: ConfigVersion) -> bool:
    """Note that a configuration is in force; False if it already was."""
    newest = in_force(connection, line, version.applied_utc)
    if (
        newest is not None
        and newest.sha256 == version.sha256
        and newest.file == version.file
        and newest.recipes == version.recipes
    ):
        return False
    connection.execute(
        insert(ConfigVersionRow).values(
            line=line,
            applied_utc=version.applied_utc,
            sha256=version.sha256,
            file=version.file,
            text=version.text,
            recipes_json=json.dumps(dict(version.recipes)),
        )
    )
    return True


def in_force(connection: Connection, line: str, at_utc: datetime) -> ConfigVersion | None:
    """The configuration at an instant; None before the first that was noted."""
    row = ConfigVersionRow
    found = connection.execute(
        select(row.applied_utc, row.sha256, row.file, row.text, row.recipes_json)
        .where(row.line == line, row.applied_utc <= at_utc)
        .order_by(row.applied_utc.desc(), row.id.desc())
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    return ConfigVersion(
        found.applied_utc, found.sha256, found.file, found.text, json.loads(found.recipes_json)
    )


def recipe_since(connection: Connection, line: str, category: str, recipe: str) -> datetime:
    """Since when a category has been inspected by this recipe; scores from before do not compare.

    ALWAYS if it never had another one, NOT_YET if it has another one now.
    """
    row = ConfigVersionRow
    since = NOT_YET
    for applied_utc, recipes_json in connection.execute(
        select(row.applied_utc, row.recipes_json)
        .where(row.line == line)
        .order_by(row.applied_utc.desc(), row.id.desc())
    ):
        known = json.loads(recipes_json).get(category)
        if known is None:
            continue
        if known != recipe:
            return since
        since = applied_utc
    return ALWAYS
