"""Code analysis: submissions, findings, answers of models, versions of steps; limits of tiers for them"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
PER_DAY = {"free": 10, "pro": 200}


def upgrade() -> None:
    _submissions_up()
    _answers_up()
    _steps_up()
    for tier, number in PER_DAY.items():
        op.execute(
            sa.text(
                "UPDATE tier SET limits = limits || jsonb_build_object('code_submissions_per_day', "
                "CAST(:number AS integer)) WHERE name = :tier"
            ).bindparams(number=number, tier=tier)
        )


def downgrade() -> None:
    op.execute("UPDATE tier SET limits = limits - 'code_submissions_per_day' - 'code_bytes'")
    op.execute("UPDATE account SET limits = limits - 'code_submissions_per_day' - 'code_bytes'")
    for table in (
        "code_experiment",
        "code_step",
        "code_step_version",
        "code_answer",
        "code_finding",
        "code_submission",
    ):
        op.drop_table(table)


def _submissions_up() -> None:
    op.create_table(
        "code_submission",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("language", sa.String(length=16), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("files", postgresql.JSONB(), nullable=False),
        sa.Column("tests", postgresql.JSONB(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("dossier", sa.Text(), nullable=True),
        sa.Column("rebuilt", postgresql.JSONB(), nullable=True),
        sa.Column("diff", sa.Text(), nullable=True),
        sa.Column("after", postgresql.JSONB(), nullable=True),
        sa.Column("quality", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("code_submission_account_id_fkey")),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipeline.id"], name=op.f("code_submission_pipeline_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("code_submission_pkey")),
        sa.UniqueConstraint("pipeline_id", name=op.f("code_submission_pipeline_id_key")),
    )
    op.create_index("code_submission_account_id_id_idx", "code_submission", ["account_id", "id"])
    op.create_table(
        "code_finding",
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("phase", sa.String(length=8), nullable=False),
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("cwe", sa.String(length=16), nullable=True),
        sa.Column("severity", sa.String(length=8), nullable=False),
        sa.Column("file", sa.String(length=200), nullable=False),
        sa.Column("line_start", sa.Integer(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["code_submission.id"], name=op.f("code_finding_submission_id_fkey")
        ),
        sa.PrimaryKeyConstraint("submission_id", "phase", "id", name=op.f("code_finding_pkey")),
    )
    op.create_index(op.f("code_finding_cwe_idx"), "code_finding", ["cwe"])


def _answers_up() -> None:
    op.create_table(
        "code_answer",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("step_version", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["submission_id"], ["code_submission.id"], name=op.f("code_answer_submission_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("code_answer_pkey")),
    )
    op.create_index(op.f("code_answer_submission_id_idx"), "code_answer", ["submission_id"])


def _steps_up() -> None:
    op.create_table(
        "code_step_version",
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("step", "number", name=op.f("code_step_version_pkey")),
    )
    op.create_table(
        "code_step",
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("canary", sa.Integer(), nullable=True),
        sa.Column("canary_share", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("step", name=op.f("code_step_pkey")),
    )
    op.create_table(
        "code_experiment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fault", sa.String(length=32), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("delay_s", sa.Float(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_by", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("code_experiment_pkey")),
    )
