"""Promotions that wait for approvals, environments, frozen aliases, policies, archived versions"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = sa.DateTime(timezone=True)
STATES = ("waiting", "decided", "rejected")
ROLES = postgresql.ARRAY(sa.String(length=16))

# The defaults let the previous release's workers go on writing rows.
PROMOTION_COLUMNS: tuple[tuple[str, Any, str | None], ...] = (
    ("rollback", sa.Boolean(), "false"),
    ("approvals_needed", sa.Integer(), "0"),
    ("approver_roles", ROLES, "'{}'"),
    ("expires_at", TIME, None),
    ("closed_at", TIME, None),
    ("closed_by", sa.String(length=64), None),
    ("note", sa.Text(), None),
    ("serving", postgresql.JSONB(), None),
)
ALIAS_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("frozen_at", TIME),
    ("frozen_by", sa.String(length=64)),
    ("frozen_reason", sa.Text()),
)


def upgrade() -> None:
    for name, kind in ALIAS_COLUMNS:
        op.add_column("alias", sa.Column(name, kind, nullable=True))
    op.create_table(
        "archived",
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("archived_by", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("archived_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["llm_version.id"], name=op.f("archived_version_id_fkey")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("archived_pkey")),
    )
    op.create_table(
        "environment",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("approvals", sa.Integer(), nullable=False),
        sa.Column("roles", ROLES, nullable=False),
        sa.Column("after", sa.String(length=64), nullable=True),
        sa.Column("expires_after_s", sa.Integer(), nullable=False),
        sa.Column("policy", sa.String(length=64), nullable=True),
        sa.CheckConstraint("approvals >= 0", name=op.f("environment_approvals_not_negative_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("environment_pkey")),
    )
    op.create_table(
        "policy",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("files", postgresql.JSONB(), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("policy_pkey")),
        sa.UniqueConstraint("name", "number", name=op.f("policy_name_number_key")),
    )
    state = sa.Enum(*STATES, name="promotionstate", native_enum=False, create_constraint=True, length=16)
    op.add_column("promotion", sa.Column("state", state, server_default=sa.text("'decided'"), nullable=False))
    for name, kind, default in PROMOTION_COLUMNS:
        given = sa.text(default) if default else None
        op.add_column("promotion", sa.Column(name, kind, server_default=given, nullable=default is None))
    op.add_column("promotion", sa.Column("policy_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("promotion_policy_id_fkey"), "promotion", "policy", ["policy_id"], ["id"])
    op.create_table(
        "approval",
        sa.Column("promotion_id", sa.Uuid(), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["promotion_id"], ["promotion.id"], name=op.f("approval_promotion_id_fkey")),
        sa.PrimaryKeyConstraint("promotion_id", "account", name=op.f("approval_pkey")),
    )
    op.execute(
        "CREATE TRIGGER approval_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON approval "
        "FOR EACH STATEMENT EXECUTE FUNCTION raymill_append_only()"
    )


def downgrade() -> None:
    op.drop_table("approval")
    op.drop_column("promotion", "policy_id")
    op.drop_table("policy")
    for name, _, _ in reversed(PROMOTION_COLUMNS):
        op.drop_column("promotion", name)
    op.drop_column("promotion", "state")
    op.drop_table("environment")
    op.drop_table("archived")
    for name, _ in reversed(ALIAS_COLUMNS):
        op.drop_column("alias", name)
