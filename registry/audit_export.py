"""Takes signed roots of the audit log, when asked and as time goes by, and hands its rows out as lines.

Roots lie in a folder (`RAYMILL_AUDIT_DIR`), which is best on another machine's disk.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from raymill.registry import audit, audit_roots
from raymill.registry.audit_chain import Chain, Checked, Root, line
from raymill.registry.audit_commit import make_durable
from raymill.registry.signing_keys import KeyRing
from raymill.registry.tables import AuditEvent, JsonObject


class Roots:
    """The folder of one service. Remembers how far it has walked, so that a later root costs the new rows alone.

    Args:
        keys_dir: the key ring whose key signs, and whose keys vouch for roots that there are.
    """

    def __init__(self, folder: Path, keys_dir: Path) -> None:
        self.folder = folder
        self._ring = KeyRing(keys_dir)
        self._chain = Chain()

    def verify(self, session: Session) -> Checked:
        """Walk the whole log, and hold it against every root that is kept.

        Raises:
            AuditBroken: it is not what was written.
            Tampered: a kept root is not what was signed.
        """
        roots = audit_roots.kept(self.folder, self._ring.public_keys(), self._ring.revoked())
        return audit.verify(session, roots)

    def take(self, session: Session) -> JsonObject:
        """Sign a root of the log as it is now, and keep it. What was walked before is not walked again.

        Raises:
            AuditBroken: the new rows are not what was written.
        """
        try:
            for _ in audit.walk(session, self._chain):
                pass
        except BaseException:
            self._chain = Chain()  # it has taken a part
            raise
        make_durable(session)  # a row that a crash may take back has no root
        root = audit_roots.root_of(self._chain)
        envelope = audit_roots.sign_root(self._ring.signer(), root)
        audit_roots.keep(self.folder, root, envelope)
        return envelope

    def newest(self) -> Root | None:
        """The last one that is kept. Raises Tampered, Invalid or Unsigned: it is not what was signed."""
        return audit_roots.newest(self.folder, self._ring.public_keys(), self._ring.revoked())

    def take_if_due(self, session: Session, every_s: float) -> bool:
        """As `take`, where rows have come since the newest root and that is old enough. Returns whether it was done."""
        newest = self.newest()
        if newest is not None:
            age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(newest.at)
            if age.total_seconds() < every_s:
                return False
        rows = session.scalar(select(func.max(AuditEvent.seq))) or 0
        if rows == (newest.rows if newest is not None else 0):
            return False
        self.take(session)
        return True


def lines(session: Session, after: int, limit: int) -> list[str]:
    """Rows as lines of an exported log, from the one after number `after` on."""
    return [line(*row).decode() for row in audit.page(session, after, limit)]
