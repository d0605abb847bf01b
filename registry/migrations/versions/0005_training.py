"""Training in depth: uploads, what is known of data sets, what is kept of runs, trials of searches"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")

# The defaults let the previous release's workers go on writing rows.
DATASET_COLUMNS = (
    ("purpose", sa.String(length=16), "'training'"),
    ("shape", sa.String(length=16), "'conversation'"),
    ("stats", postgresql.JSONB(), "'{}'"),
    ("provenance", postgresql.JSONB(), "'{}'"),
)
RUN_COLUMNS = (
    ("method", sa.String(length=16), "'sft'"),
    ("metrics", postgresql.JSONB(), "'{}'"),
    ("series", postgresql.JSONB(), "'[]'"),
)
TRIAL_STATES = ("running", "finished", "stopped", "failed")


def upgrade() -> None:
    _datasets_up()
    _runs_up()
    _trials_up()


def downgrade() -> None:
    _trials_down()
    _runs_down()
    _datasets_down()


def _datasets_up() -> None:
    for name, kind, default in DATASET_COLUMNS:
        op.add_column("dataset", sa.Column(name, kind, server_default=sa.text(default), nullable=False))
    op.create_table(
        "upload",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("size_bytes > 0", name=op.f("upload_size_positive_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("upload_pkey")),
    )
    op.create_index("upload_open_idx", "upload", ["sha256"], postgresql_where=sa.text("completed_at IS NULL"))


def _datasets_down() -> None:
    op.drop_table("upload")
    for name, _, _ in DATASET_COLUMNS:
        op.drop_column("dataset", name)


def _runs_up() -> None:
    for name, kind, default in RUN_COLUMNS:
        op.add_column("training_run", sa.Column(name, kind, server_default=sa.text(default), nullable=False))
    op.execute("UPDATE training_run SET method = 'pretrain' WHERE kind = 'pretrain'")


def _runs_down() -> None:
    for name, _, _ in RUN_COLUMNS:
        op.drop_column("training_run", name)


def _trials_up() -> None:
    state = sa.Enum(*TRIAL_STATES, name="trialstate", native_enum=False, create_constraint=True, length=16)
    op.create_table(
        "trial",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("state", state, nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("total_steps", sa.Integer(), nullable=False),
        sa.Column("metric", sa.Float(), nullable=True),
        sa.Column("reports", postgresql.JSONB(), nullable=False),
        sa.Column("copies", postgresql.JSONB(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("trial_job_id_fkey")),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("trial_pkey")),
    )


def _trials_down() -> None:
    op.drop_table("trial")
