"""Canaries: a promotion's version on a share of the alias's requests, and which side a request met"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = sa.DateTime(timezone=True)
BEFORE = ("waiting", "decided", "rejected")
STATES = ("pending", "starting", "running", "advanced", "ended")
CHECK = "promotion_promotionstate_check"


def _allow(*states: str) -> None:
    op.drop_constraint(op.f(CHECK), "promotion", type_="check")
    listed = ", ".join(f"'{state}'" for state in states)
    op.create_check_constraint(op.f(CHECK), "promotion", f"state IN ({listed})")


def upgrade() -> None:
    _allow(*BEFORE, "canary", "aborted")
    op.add_column("promotion", sa.Column("canary", postgresql.JSONB(), nullable=True))
    op.add_column("environment", sa.Column("canary", postgresql.JSONB(), nullable=True))
    op.add_column("usage", sa.Column("canary_id", sa.Uuid(), nullable=True))
    op.add_column("usage", sa.Column("arm", sa.String(length=16), nullable=True))
    op.create_index(
        op.f("usage_canary_id_at_idx"),
        "usage",
        ["canary_id", "at"],
        postgresql_where=sa.text("canary_id IS NOT NULL"),
    )
    state = sa.Enum(*STATES, name="canarystate", native_enum=False, create_constraint=True, length=16)
    versions = [
        sa.ForeignKeyConstraint([column], ["llm_version.id"], name=op.f(f"canary_{column}_fkey"))
        for column in ("version_id", "current_id")
    ]
    op.create_table(
        "canary",
        sa.Column("promotion_id", sa.Uuid(), nullable=False),
        sa.Column("llm_id", sa.Uuid(), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("current_id", sa.Uuid(), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("state", state, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("step_at", TIME, nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("looked_at", TIME, nullable=True),
        sa.Column("measured", postgresql.JSONB(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["promotion_id"], ["promotion.id"], name=op.f("canary_promotion_id_fkey")),
        sa.ForeignKeyConstraint(["llm_id"], ["llm.id"], name=op.f("canary_llm_id_fkey")),
        *versions,
        sa.PrimaryKeyConstraint("promotion_id", name=op.f("canary_pkey")),
    )
    op.create_index(
        op.f("canary_running_idx"),
        "canary",
        ["llm_id", "alias"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("canary")
    op.drop_index(op.f("usage_canary_id_at_idx"), "usage")
    for table, column in (
        ("usage", "arm"),
        ("usage", "canary_id"),
        ("environment", "canary"),
        ("promotion", "canary"),
    ):
        op.drop_column(table, column)
    op.execute("UPDATE promotion SET state = 'rejected' WHERE state IN ('canary', 'aborted')")
    _allow(*BEFORE)
