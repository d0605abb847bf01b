"""Drift: what is watched, what each look found"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "drift_watch",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_job_id", sa.Uuid(), nullable=True),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("drift_watch_pkey")),
        sa.UniqueConstraint("name", name=op.f("drift_watch_name_key")),
    )
    op.create_index(
        "drift_watch_due_idx",
        "drift_watch",
        ["next_at"],
        postgresql_where=sa.text("next_at IS NOT NULL AND enabled"),
    )
    op.create_table(
        "drift_run",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("watch_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("news", sa.Boolean(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reasons", postgresql.JSONB(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("canary", postgresql.JSONB(), nullable=True),
        sa.Column("traffic", postgresql.JSONB(), nullable=True),
        sa.Column("baseline", sa.Boolean(), nullable=False),
        sa.Column("scores", postgresql.JSONB(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["watch_id"], ["drift_watch.id"], name=op.f("drift_run_watch_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("drift_run_pkey")),
        sa.UniqueConstraint("job_id", name=op.f("drift_run_job_id_key")),
    )
    op.create_index("drift_run_watch_id_idx", "drift_run", ["watch_id", "id"])
    op.create_index(
        "drift_run_found_idx", "drift_run", ["id"], postgresql_where=sa.text("severity <> 'none'")
    )


def downgrade() -> None:
    op.drop_table("drift_run")
    op.drop_table("drift_watch")
