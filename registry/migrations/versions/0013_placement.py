"""Placement: what jobs ask of the cluster, quotas of teams, accelerators"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

READY = "state = 'queued' AND waiting_on = 0"


def upgrade() -> None:
    op.add_column("job", sa.Column("team_id", sa.Uuid(), nullable=True))
    op.add_column("job", sa.Column("gpus", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job", sa.Column("cpus", sa.Integer(), server_default="1", nullable=False))
    op.add_column("job", sa.Column("accelerator", sa.String(length=64), nullable=True))
    op.create_index(
        op.f("job_team_ready_idx"),
        "job",
        ["team_id", "queue"],
        postgresql_where=sa.text(f"{READY} AND team_id IS NOT NULL"),
    )
    op.create_index(
        op.f("job_placed_ready_idx"),
        "job",
        ["queue"],
        postgresql_where=sa.text(f"{READY} AND accelerator IS NOT NULL"),
    )
    op.create_table(
        "team_quota",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("max_gpus", sa.Integer(), nullable=True),
        sa.Column("max_cpus", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "max_running >= 0 AND max_gpus >= 0 AND max_cpus >= 0",
            name=op.f("team_quota_not_negative_check"),
        ),
        sa.ForeignKeyConstraint(["team_id"], ["team.id"], name=op.f("team_quota_team_id_fkey")),
        sa.PrimaryKeyConstraint("team_id", name=op.f("team_quota_pkey")),
    )
    op.create_table(
        "accelerator",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("free", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("accelerator_pkey")),
    )


def downgrade() -> None:
    op.drop_table("accelerator")
    op.drop_table("team_quota")
    op.drop_index(op.f("job_placed_ready_idx"), "job")
    op.drop_index(op.f("job_team_ready_idx"), "job")
    for column in ("accelerator", "cpus", "gpus", "team_id"):
        op.drop_column("job", column)
