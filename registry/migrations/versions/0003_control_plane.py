"""The control plane: queues, jobs that stand alone, limits, pauses, poison, triggers, hooks, history"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
STATES = ("queued", "running", "paused", "succeeded", "failed", "cancelled", "dead")
READY = "state = 'queued' AND waiting_on = 0"


def _time(name: str, *, now: bool = False) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), server_default=NOW if now else None, nullable=not now)


def _counter(name: str, default: str = "0") -> "sa.Column[object]":
    return sa.Column(name, sa.Integer(), server_default=default, nullable=False)


def upgrade() -> None:
    op.create_table(
        "queue",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("runner", sa.String(length=16), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        _time("paused_at"),
        _time("created_at", now=True),
        sa.CheckConstraint(
            "max_running IS NULL OR max_running >= 1", name=op.f("queue_max_running_positive_check")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("queue_pkey")),
    )
    op.execute(
        "INSERT INTO queue (name, runner) VALUES ('heavy', 'heavy'), ('short', 'short'), ('hooks', 'short')"
    )
    op.add_column("pipeline", sa.Column("trigger_id", sa.Uuid(), nullable=True))
    _alter_job()
    op.drop_index("job_event_pipeline_id_id_idx", table_name="job_event")
    op.alter_column("job_event", "pipeline_id", nullable=True)
    op.create_index(
        "job_event_pipeline_id_id_idx",
        "job_event",
        ["pipeline_id", "id"],
        postgresql_where=sa.text("pipeline_id IS NOT NULL"),
    )
    op.create_table(
        "job_history",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*STATES, name="jobstate", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("job", postgresql.JSONB(), nullable=False),
        sa.Column("events", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", "finished_at", name=op.f("job_history_pkey")),
        postgresql_partition_by="RANGE (finished_at)",
    )
    op.create_table(
        "trigger",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("on", sa.String(length=16), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("recipe", postgresql.JSONB(), nullable=False),
        sa.Column("recipe_dir", sa.Text(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        _time("next_at"),
        _time("last_fired_at"),
        sa.Column("last_pipeline_id", sa.Uuid(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        _time("created_at", now=True),
        sa.PrimaryKeyConstraint("id", name=op.f("trigger_pkey")),
        sa.UniqueConstraint("name", name=op.f("trigger_name_key")),
    )
    op.create_index(
        "trigger_due_idx", "trigger", ["next_at"], postgresql_where=sa.text("next_at IS NOT NULL AND enabled")
    )
    op.create_table(
        "trigger_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("on", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        _time("at", now=True),
        _time("taken_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("trigger_event_pkey")),
        sa.UniqueConstraint("key", name=op.f("trigger_event_key_key")),
    )
    op.create_index(
        "trigger_event_open_idx", "trigger_event", ["id"], postgresql_where=sa.text("taken_at IS NULL")
    )
    op.create_table(
        "hook",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("on", postgresql.ARRAY(sa.String(length=32)), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=True),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        _time("created_at", now=True),
        sa.PrimaryKeyConstraint("id", name=op.f("hook_pkey")),
        sa.UniqueConstraint("name", name=op.f("hook_name_key")),
    )


def _alter_job() -> None:
    for index in ("ready", "depends_on", "address", "concurrency", "pipeline_id"):
        op.drop_index(f"job_{index}_idx", table_name="job")
    op.drop_constraint(op.f("job_counters_not_negative_check"), "job")
    op.alter_column("job", "pipeline_id", nullable=True)
    for name, default in (
        ("state", "queued"),
        ("epoch", "0"),
        ("attempt", "0"),
        ("max_attempts", "3"),
        ("waiting_on", "0"),
        ("depends_on", "{}"),
    ):
        op.alter_column("job", name, server_default=default)
    op.execute(
        "ALTER TABLE job ALTER COLUMN priority TYPE smallint USING least(3, greatest(0, priority + 1)), "
        "ALTER COLUMN priority SET DEFAULT 1"
    )
    op.add_column("job", sa.Column("failures", postgresql.JSONB(), server_default="{}", nullable=False))
    op.add_column("job", _counter("losses"))
    op.add_column("job", _counter("progress_epoch"))
    op.add_column("job", _counter("concurrency_limit", "1"))
    op.add_column("job", sa.Column("slot", sa.Integer(), nullable=True))
    op.add_column("job", sa.Column("unique_key", sa.String(length=200), nullable=True))
    op.add_column("job", sa.Column("idempotency_key", sa.String(length=200), nullable=True))
    op.add_column("job", sa.Column("request_hash", sa.String(length=64), nullable=True))
    op.add_column("job", _time("pause_requested_at"))
    op.add_column(
        "job",
        sa.Column(
            "on_parent_failure",
            sa.Enum(
                "skip",
                "fail",
                "run",
                name="onparentfailure",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            server_default="skip",
            nullable=False,
        ),
    )
    op.add_column("job", sa.Column("ended_by", sa.Uuid(), nullable=True))
    op.add_column("job", sa.Column("last_log", sa.Text(), nullable=True))
    op.execute("UPDATE job SET slot = 0 WHERE state = 'running' AND concurrency_key IS NOT NULL")
    op.create_check_constraint(
        op.f("job_counters_not_negative_check"),
        "job",
        "epoch >= 0 AND attempt >= 0 AND waiting_on >= 0 AND losses >= 0",
    )
    op.create_check_constraint(op.f("job_priority_known_check"), "job", "priority BETWEEN 0 AND 3")
    op.create_check_constraint(
        op.f("job_slot_while_running_check"), "job", "slot IS NULL OR state = 'running'"
    )
    for name, columns, unique, where in (
        ("ready", ["queue", "priority", "run_at", "id"], False, READY),
        ("address", ["address"], False, "state = 'succeeded' AND address IS NOT NULL"),
        (
            "concurrency",
            ["concurrency_key", "slot"],
            True,
            "state = 'running' AND concurrency_key IS NOT NULL",
        ),
        (
            "unique",
            ["unique_key"],
            True,
            "unique_key IS NOT NULL AND state IN ('queued', 'running', 'paused')",
        ),
        ("idempotency", ["idempotency_key"], True, "idempotency_key IS NOT NULL"),
        ("reused", ["reused_job_id"], False, "reused_job_id IS NOT NULL"),
        ("pipeline_id", ["pipeline_id"], False, "pipeline_id IS NOT NULL"),
        ("attention", ["state", "id"], False, "state IN ('dead', 'failed', 'paused')"),
    ):
        op.create_index(f"job_{name}_idx", "job", columns, unique=unique, postgresql_where=sa.text(where))
    op.create_index(
        "job_depends_on_idx",
        "job",
        ["depends_on"],
        postgresql_using="gin",
        postgresql_where=sa.text("waiting_on > 0"),
    )


def downgrade() -> None:
    """Jobs that stand alone have no place in the older schema: they and their events go."""
    for table in ("hook", "trigger_event", "trigger", "job_history"):
        op.drop_table(table)
    op.execute("DELETE FROM job_event WHERE pipeline_id IS NULL")
    op.execute("DELETE FROM job WHERE pipeline_id IS NULL")
    op.drop_index("job_event_pipeline_id_id_idx", table_name="job_event")
    op.alter_column("job_event", "pipeline_id", nullable=False)
    op.create_index("job_event_pipeline_id_id_idx", "job_event", ["pipeline_id", "id"])
    for name in (
        "ready",
        "address",
        "concurrency",
        "unique",
        "idempotency",
        "reused",
        "pipeline_id",
        "attention",
        "depends_on",
    ):
        op.drop_index(f"job_{name}_idx", table_name="job")
    for name in ("counters_not_negative", "priority_known", "slot_while_running"):
        op.drop_constraint(op.f(f"job_{name}_check"), "job")
    for name in (
        "failures",
        "losses",
        "progress_epoch",
        "concurrency_limit",
        "slot",
        "unique_key",
        "idempotency_key",
        "request_hash",
        "pause_requested_at",
        "on_parent_failure",
        "ended_by",
        "last_log",
    ):
        op.drop_column("job", name)
    op.execute(
        "ALTER TABLE job ALTER COLUMN priority DROP DEFAULT, ALTER COLUMN priority TYPE integer USING priority - 1"
    )
    for name in ("state", "epoch", "attempt", "max_attempts", "waiting_on", "depends_on"):
        op.alter_column("job", name, server_default=None)
    op.alter_column("job", "pipeline_id", nullable=False)
    op.create_check_constraint(
        op.f("job_counters_not_negative_check"), "job", "epoch >= 0 AND attempt >= 0 AND waiting_on >= 0"
    )
    op.create_index("job_address_idx", "job", ["address"], postgresql_where=sa.text("state = 'succeeded'"))
    op.create_index(
        "job_concurrency_idx",
        "job",
        ["concurrency_key"],
        unique=True,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index("job_depends_on_idx", "job", ["depends_on"], postgresql_using="gin")
    op.create_index("job_pipeline_id_idx", "job", ["pipeline_id"])
    op.create_index(
        "job_ready_idx",
        "job",
        ["queue", sa.literal_column("priority DESC"), "run_at", "id"],
        postgresql_where=sa.text(READY),
    )
    op.drop_column("pipeline", "trigger_id")
    op.drop_table("queue")
