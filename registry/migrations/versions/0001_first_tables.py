"""The registry's first tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# What was in production when, and who changed what, is never edited.
APPEND_ONLY = """
CREATE FUNCTION raymill_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column(
            "role",
            sa.Enum(
                "viewer",
                "operator",
                "approver",
                "admin",
                name="role",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("account_pkey")),
        sa.UniqueConstraint("name", name=op.f("account_name_key")),
    )
    op.create_table(
        "audit_event",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("object", sa.String(length=300), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("previous_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("audit_event_pkey")),
    )
    op.create_index(op.f("audit_event_object_idx"), "audit_event", ["object"], unique=False)
    op.create_table(
        "llm",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("llm_pkey")),
        sa.UniqueConstraint("name", name=op.f("llm_name_key")),
    )
    op.create_table(
        "pipeline",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("recipe", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "paused",
                "succeeded",
                "failed",
                "cancelled",
                "dead",
                name="jobstate",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pipeline_pkey")),
        sa.UniqueConstraint("idempotency_key", name=op.f("pipeline_idempotency_key_key")),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("api_key_account_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("api_key_pkey")),
        sa.UniqueConstraint("key_sha256", name=op.f("api_key_key_sha256_key")),
    )
    op.create_index(op.f("api_key_account_id_idx"), "api_key", ["account_id"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "paused",
                "succeeded",
                "failed",
                "cancelled",
                "dead",
                name="jobstate",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column(
            "run_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("concurrency_key", sa.String(length=200), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("depends_on", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("waiting_on", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(length=12), nullable=True),
        sa.Column("reused_job_id", sa.Uuid(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL)", name=op.f("job_lease_while_running_check")
        ),
        sa.CheckConstraint(
            "epoch >= 0 AND attempt >= 0 AND waiting_on >= 0", name=op.f("job_counters_not_negative_check")
        ),
        sa.ForeignKeyConstraint(["pipeline_id"], ["pipeline.id"], name=op.f("job_pipeline_id_fkey")),
        sa.ForeignKeyConstraint(["reused_job_id"], ["job.id"], name=op.f("job_reused_job_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("job_pkey")),
    )
    op.create_index(
        "job_address_idx", "job", ["address"], unique=False, postgresql_where=sa.text("state = 'succeeded'")
    )
    op.create_index(
        "job_concurrency_idx",
        "job",
        ["concurrency_key"],
        unique=True,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index("job_depends_on_idx", "job", ["depends_on"], unique=False, postgresql_using="gin")
    op.create_index(
        "job_leased_idx", "job", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'running'")
    )
    op.create_index(op.f("job_pipeline_id_idx"), "job", ["pipeline_id"], unique=False)
    op.create_index(
        "job_ready_idx",
        "job",
        ["queue", sa.literal_column("priority DESC"), "run_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND waiting_on = 0"),
    )
    op.create_table(
        "artifact",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("artifact_job_id_fkey")),
        sa.PrimaryKeyConstraint("name", name=op.f("artifact_pkey")),
    )
    op.create_table(
        "job_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("job_event_job_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("job_event_pkey")),
    )
    op.create_index("job_event_job_id_id_idx", "job_event", ["job_id", "id"], unique=False)
    op.create_index("job_event_pipeline_id_id_idx", "job_event", ["pipeline_id", "id"], unique=False)
    op.create_table(
        "dataset",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("artifact_name", sa.String(length=200), nullable=False),
        sa.Column("train_rows", sa.Integer(), nullable=False),
        sa.Column("test_rows", sa.Integer(), nullable=False),
        sa.Column("format", sa.String(length=32), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["artifact_name"], ["artifact.name"], name=op.f("dataset_artifact_name_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("dataset_pkey")),
        sa.UniqueConstraint("name", "digest", name=op.f("dataset_name_digest_key")),
        sa.UniqueConstraint("name", "number", name=op.f("dataset_name_number_key")),
    )
    op.create_table(
        "training_run",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("artifact_name", sa.String(length=200), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("final_loss", sa.Double(), nullable=False),
        sa.Column("tokens_per_s", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["artifact_name"], ["artifact.name"], name=op.f("training_run_artifact_name_fkey")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("training_run_job_id_fkey")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("training_run_pkey")),
    )
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("artifact_name", sa.String(length=200), nullable=False),
        sa.Column("variant", sa.String(length=16), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=True),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("samples > 0", name=op.f("evaluation_samples_positive_check")),
        sa.ForeignKeyConstraint(
            ["artifact_name"], ["artifact.name"], name=op.f("evaluation_artifact_name_fkey")
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("evaluation_dataset_id_fkey")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("evaluation_job_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("evaluation_pkey")),
    )
    op.create_index(op.f("evaluation_artifact_name_idx"), "evaluation", ["artifact_name"], unique=False)
    op.create_index(op.f("evaluation_job_id_idx"), "evaluation", ["job_id"], unique=False)
    op.create_table(
        "llm_version",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("llm_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("artifact_name", sa.String(length=200), nullable=False),
        sa.Column("base_artifact_name", sa.String(length=200), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["artifact_name"], ["artifact.name"], name=op.f("llm_version_artifact_name_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["base_artifact_name"], ["artifact.name"], name=op.f("llm_version_base_artifact_name_fkey")
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("llm_version_dataset_id_fkey")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("llm_version_job_id_fkey")),
        sa.ForeignKeyConstraint(["llm_id"], ["llm.id"], name=op.f("llm_version_llm_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("llm_version_pkey")),
        sa.UniqueConstraint("artifact_name", name=op.f("llm_version_artifact_name_key")),
        sa.UniqueConstraint("llm_id", "number", name=op.f("llm_version_llm_id_number_key")),
    )
    op.create_table(
        "alias",
        sa.Column("llm_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["llm_id"], ["llm.id"], name=op.f("alias_llm_id_fkey")),
        sa.ForeignKeyConstraint(["version_id"], ["llm_version.id"], name=op.f("alias_version_id_fkey")),
        sa.PrimaryKeyConstraint("llm_id", "name", name=op.f("alias_pkey")),
    )
    op.create_table(
        "deployment",
        sa.Column("llm_id", sa.Uuid(), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "starting",
                "ready",
                "failed",
                name="deploymentstate",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("serving_version_id", sa.Uuid(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["llm_id"], ["llm.id"], name=op.f("deployment_llm_id_fkey")),
        sa.ForeignKeyConstraint(
            ["serving_version_id"], ["llm_version.id"], name=op.f("deployment_serving_version_id_fkey")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["llm_version.id"], name=op.f("deployment_version_id_fkey")),
        sa.PrimaryKeyConstraint("llm_id", "alias", name=op.f("deployment_pkey")),
    )
    op.create_table(
        "promotion",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("input", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("input_digest", sa.String(length=64), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("requested_by", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("promotion_job_id_fkey")),
        sa.ForeignKeyConstraint(["version_id"], ["llm_version.id"], name=op.f("promotion_version_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("promotion_pkey")),
    )
    op.create_index(op.f("promotion_version_id_idx"), "promotion", ["version_id"], unique=False)
    op.create_table(
        "quantization",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("artifact_name", sa.String(length=200), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("file", sa.String(length=200), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("tensors", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("fallbacks", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("parity", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["artifact_name"], ["artifact.name"], name=op.f("quantization_artifact_name_fkey")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("quantization_job_id_fkey")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["llm_version.id"], name=op.f("quantization_version_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("quantization_pkey")),
        sa.UniqueConstraint("artifact_name", "type", name=op.f("quantization_artifact_name_type_key")),
    )
    op.create_index(op.f("quantization_version_id_idx"), "quantization", ["version_id"], unique=False)
    op.create_table(
        "alias_move",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("llm_id", sa.Uuid(), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("previous_version_id", sa.Uuid(), nullable=True),
        sa.Column("promotion_id", sa.Uuid(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column(
            "moved_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["llm_id"], ["llm.id"], name=op.f("alias_move_llm_id_fkey")),
        sa.ForeignKeyConstraint(
            ["previous_version_id"], ["llm_version.id"], name=op.f("alias_move_previous_version_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["promotion_id"], ["promotion.id"], name=op.f("alias_move_promotion_id_fkey")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["llm_version.id"], name=op.f("alias_move_version_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("alias_move_pkey")),
    )
    op.create_index(op.f("alias_move_llm_id_idx"), "alias_move", ["llm_id"], unique=False)
    op.create_table(
        "attestation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("artifact_name", sa.String(length=200), nullable=False),
        sa.Column("envelope", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("promotion_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["artifact_name"], ["artifact.name"], name=op.f("attestation_artifact_name_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["promotion_id"], ["promotion.id"], name=op.f("attestation_promotion_id_fkey")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["llm_version.id"], name=op.f("attestation_version_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("attestation_pkey")),
    )
    op.create_index(op.f("attestation_artifact_name_idx"), "attestation", ["artifact_name"], unique=False)
    op.create_index(op.f("attestation_version_id_idx"), "attestation", ["version_id"], unique=False)
    op.execute(APPEND_ONLY)
    for table in ("audit_event", "alias_move"):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION raymill_append_only()"
        )


def downgrade() -> None:
    op.drop_index(op.f("attestation_version_id_idx"), table_name="attestation")
    op.drop_index(op.f("attestation_artifact_name_idx"), table_name="attestation")
    op.drop_table("attestation")
    op.drop_index(op.f("alias_move_llm_id_idx"), table_name="alias_move")
    op.drop_table("alias_move")
    op.drop_index(op.f("quantization_version_id_idx"), table_name="quantization")
    op.drop_table("quantization")
    op.drop_index(op.f("promotion_version_id_idx"), table_name="promotion")
    op.drop_table("promotion")
    op.drop_table("deployment")
    op.drop_table("alias")
    op.drop_table("llm_version")
    op.drop_index(op.f("evaluation_job_id_idx"), table_name="evaluation")
    op.drop_index(op.f("evaluation_artifact_name_idx"), table_name="evaluation")
    op.drop_table("evaluation")
    op.drop_table("training_run")
    op.drop_table("dataset")
    op.drop_index("job_event_pipeline_id_id_idx", table_name="job_event")
    op.drop_index("job_event_job_id_id_idx", table_name="job_event")
    op.drop_table("job_event")
    op.drop_table("artifact")
    op.drop_index(
        "job_ready_idx", table_name="job", postgresql_where=sa.text("state = 'queued' AND waiting_on = 0")
    )
    op.drop_index(op.f("job_pipeline_id_idx"), table_name="job")
    op.drop_index("job_leased_idx", table_name="job", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("job_depends_on_idx", table_name="job", postgresql_using="gin")
    op.drop_index("job_concurrency_idx", table_name="job", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("job_address_idx", table_name="job", postgresql_where=sa.text("state = 'succeeded'"))
    op.drop_table("job")
    op.drop_index(op.f("api_key_account_id_idx"), table_name="api_key")
    op.drop_table("api_key")
    op.drop_table("pipeline")
    op.drop_table("llm")
    op.drop_index(op.f("audit_event_object_idx"), table_name="audit_event")
    op.drop_table("audit_event")
    op.drop_table("account")
    op.execute("DROP FUNCTION raymill_append_only")
