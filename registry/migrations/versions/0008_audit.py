"""Audit rows know address, before and after; they are written by one function and changed by nobody; versions know what made them"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Chained as in registry/audit_chain.py: `said` is the row's canonical JSON up to its number, which is known here alone.
APPEND = """
CREATE FUNCTION raymill_audit_append(
    at timestamptz, actor text, action text, object text, detail jsonb, request_id text, address text,
    before jsonb, after jsonb, said bytea
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    previous bytea := decode(repeat('00', 32), 'hex');
    number bigint := 1;
    newest record;
BEGIN
    PERFORM pg_advisory_xact_lock(7265707);
    FOR newest IN SELECT e.seq, e.hash FROM audit_event AS e ORDER BY e.seq DESC LIMIT 1 LOOP
        number := newest.seq + 1;
        previous := newest.hash;
    END LOOP;
    INSERT INTO audit_event (
        seq, at, actor, action, object, detail, request_id, address, before, after, previous_hash, hash
    ) VALUES (
        number, at, actor, action, object, detail, request_id, address, before, after, previous,
        sha256(previous || said || convert_to(number::text || '}', 'UTF8'))
    );
    RETURN number;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "sbom",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("document", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("sbom_pkey")),
    )
    op.add_column("llm_version", sa.Column("sbom_digest", sa.String(length=64), nullable=True))
    op.create_foreign_key(
        op.f("llm_version_sbom_digest_fkey"), "llm_version", "sbom", ["sbom_digest"], ["digest"]
    )
    op.add_column("audit_event", sa.Column("address", sa.String(length=64), nullable=True))
    op.add_column("audit_event", sa.Column("before", postgresql.JSONB(), nullable=True))
    op.add_column("audit_event", sa.Column("after", postgresql.JSONB(), nullable=True))
    op.execute(APPEND)
    # A trigger says no already; without the privilege the statement is not even begun.
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON audit_event FROM PUBLIC, CURRENT_USER")


def downgrade() -> None:
    op.execute("GRANT UPDATE, DELETE, TRUNCATE ON audit_event TO CURRENT_USER")
    op.execute(
        "DROP FUNCTION raymill_audit_append(timestamptz, text, text, text, jsonb, text, text, jsonb, jsonb, bytea)"
    )
    for name in ("after", "before", "address"):
        op.drop_column("audit_event", name)
    op.drop_column("llm_version", "sbom_digest")
    op.drop_table("sbom")
