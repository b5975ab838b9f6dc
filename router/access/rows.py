"""Keys as rows of a table, the same in every database."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import SettingsError
from ..settings import KeyRules
from .keys import VirtualKey

COLUMNS = (
    "id", "tenant", "digest", "rules", "name", "shown", "created_at", "expires_at", "revoked_at", "last_used",
)  # fmt: skip
SELECT = f"SELECT {', '.join(COLUMNS)} FROM keys ORDER BY created_at, id"  # noqa: S608
INSERT = f"INSERT INTO keys ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
REVOKE = "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
USED = "UPDATE keys SET last_used = ? WHERE id = ? AND coalesce(last_used, 0) < ?"


class KeyStoreError(SettingsError):
    """The keys cannot be read or written; says where they are."""


def to_row(key: VirtualKey) -> list[Any]:
    """Return a key's columns in order."""
    row = [getattr(key, name) for name in COLUMNS]
    row[COLUMNS.index("rules")] = key.rules.model_dump_json(exclude_defaults=True)
    return row


def from_row(row: tuple[Any, ...]) -> VirtualKey:
    """Return the key of columns in order.

    Raises:
        KeyStoreError: It has a rule that this version does not know, and must not leave out.
        ValueError, MsgspecError: Its rules are damaged.
    """
    fields = dict(zip(COLUMNS, row, strict=True))
    rules = msgspec.json.decode(fields["rules"], type=dict[str, Any])
    unknown = rules.keys() - KeyRules.model_fields.keys()
    if unknown:
        raise KeyStoreError(
            f"key {fields['id']} has a rule of a newer version of smallfirst: {min(unknown)}; upgrade"
        )
    fields["rules"] = KeyRules.model_validate(rules)
    fields["digest"] = bytes(fields["digest"])
    return VirtualKey(**fields)
