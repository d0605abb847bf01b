"""The gateway: teams, tiers, budgets, providers, routes, presets, meters, usage, traces, feedback"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIERS = [
    {
        "name": "free",
        "limits": {
            "requests_per_minute": 20,
            "requests_per_day": 500,
            "tokens_per_minute": 20_000,
            "tokens_per_day": 200_000,
            "streams": 2,
        },
    },
    {
        "name": "pro",
        "limits": {
            "requests_per_minute": 600,
            "requests_per_day": 50_000,
            "tokens_per_minute": 500_000,
            "tokens_per_day": 20_000_000,
            "streams": 50,
        },
    },
    {"name": "enterprise", "limits": {}},
]


def upgrade() -> None:
    op.create_table(
        "budget",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column(
            "period",
            sa.Enum(
                "day",
                "month",
                "total",
                name="budgetperiod",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("limit_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("limit_micro_usd >= 0", name=op.f("budget_limit_not_negative_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("budget_pkey")),
        sa.UniqueConstraint("subject", "period", name=op.f("budget_subject_period_key")),
    )
    op.create_table(
        "gateway_replica",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("node", sa.String(length=200), nullable=False),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("gateway_replica_pkey")),
    )
    op.create_table(
        "kept_answer",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("replica_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("kept_answer_pkey")),
    )
    op.create_index(op.f("kept_answer_expires_at_idx"), "kept_answer", ["expires_at"], unique=False)
    op.create_table(
        "meter",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("leased", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("leased >= 0", name=op.f("meter_leased_not_negative_check")),
        sa.CheckConstraint("used >= 0", name=op.f("meter_used_not_negative_check")),
        sa.PrimaryKeyConstraint("name", "bucket", name=op.f("meter_pkey")),
    )
    op.create_table(
        "meter_lease",
        sa.Column("replica_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("replica_id", "name", "bucket", name=op.f("meter_lease_pkey")),
    )
    op.create_table(
        "preset",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("preset_pkey")),
        sa.UniqueConstraint("name", name=op.f("preset_name_key")),
    )
    op.create_table(
        "price",
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("input_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("output_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("max_output_tokens", sa.Integer(), nullable=True),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("provider", "model", name=op.f("price_pkey")),
    )
    op.create_table(
        "provider",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("preset", sa.String(length=32), nullable=False),
        sa.Column(
            "wire",
            sa.Enum(
                "openai",
                "anthropic",
                "gemini",
                name="wire",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("base_url", sa.String(length=300), nullable=False),
        sa.Column("settings", postgresql.JSONB(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("provider_pkey")),
        sa.UniqueConstraint("name", name=op.f("provider_name_key")),
    )
    op.create_table(
        "route",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("route_pkey")),
        sa.UniqueConstraint("name", name=op.f("route_name_key")),
    )
    op.create_table(
        "team",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("team_pkey")),
        sa.UniqueConstraint("name", name=op.f("team_name_key")),
    )
    op.create_table(
        "tier",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("limits", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("tier_pkey")),
    )
    op.create_table(
        "trace",
        sa.Column("usage_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("route", sa.String(length=200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("prompt", postgresql.JSONB(), nullable=False),
        sa.Column("answer", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("usage_id", name=op.f("trace_pkey")),
    )
    op.create_index(op.f("trace_at_idx"), "trace", ["at"], unique=False)
    op.create_index(op.f("trace_request_id_idx"), "trace", ["request_id"], unique=False)
    op.create_table(
        "usage",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replica_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("operation", sa.String(length=32), nullable=False),
        sa.Column("route", sa.String(length=200), nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("priced", sa.Boolean(), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("first_token_ms", sa.Double(), nullable=True),
        sa.Column("overhead_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("usage_pkey")),
    )
    op.create_index("usage_account_id_at_idx", "usage", ["account_id", "at"], unique=False)
    op.create_index("usage_at_idx", "usage", ["at"], unique=False)
    op.create_index("usage_key_id_at_idx", "usage", ["key_id", "at"], unique=False)
    op.create_index(op.f("usage_request_id_idx"), "usage", ["request_id"], unique=False)
    op.create_index("usage_route_at_idx", "usage", ["route", "at"], unique=False)
    op.create_table(
        "provider_check",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("provider_id", sa.Uuid(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["provider_id"], ["provider.id"], name=op.f("provider_check_provider_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("provider_check_pkey")),
    )
    op.create_index(op.f("provider_check_provider_id_idx"), "provider_check", ["provider_id"], unique=False)
    op.create_table(
        "provider_key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("provider_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.String(length=16), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["provider_id"], ["provider.id"], name=op.f("provider_key_provider_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("provider_key_pkey")),
        sa.UniqueConstraint("provider_id", "name", name=op.f("provider_key_provider_id_name_key")),
    )
    op.create_index(op.f("provider_key_provider_id_idx"), "provider_key", ["provider_id"], unique=False)
    op.create_table(
        "provider_model",
        sa.Column("provider_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["provider_id"], ["provider.id"], name=op.f("provider_model_provider_id_fkey")
        ),
        sa.PrimaryKeyConstraint("provider_id", "model", name=op.f("provider_model_pkey")),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f("feedback_account_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("feedback_pkey")),
    )
    op.create_index(op.f("feedback_request_id_idx"), "feedback", ["request_id"], unique=False)
    tiers = sa.table("tier", sa.column("name", sa.String), sa.column("limits", postgresql.JSONB))
    op.bulk_insert(tiers, TIERS)
    # With defaults, so that workers of the release before this one go on making accounts.
    op.add_column("account", sa.Column("team_id", sa.Uuid(), nullable=True))
    op.add_column(
        "account", sa.Column("tier", sa.String(length=32), server_default="enterprise", nullable=False)
    )
    op.add_column("account", sa.Column("limits", postgresql.JSONB(), server_default="{}", nullable=False))
    op.create_index(op.f("account_team_id_idx"), "account", ["team_id"], unique=False)
    op.create_foreign_key(op.f("account_tier_fkey"), "account", "tier", ["tier"], ["name"])
    op.create_foreign_key(op.f("account_team_id_fkey"), "account", "team", ["team_id"], ["id"])


def downgrade() -> None:

    op.drop_constraint(op.f("account_team_id_fkey"), "account", type_="foreignkey")
    op.drop_constraint(op.f("account_tier_fkey"), "account", type_="foreignkey")
    op.drop_index(op.f("account_team_id_idx"), table_name="account")
    op.drop_column("account", "limits")
    op.drop_column("account", "tier")
    op.drop_column("account", "team_id")
    op.drop_index(op.f("feedback_request_id_idx"), table_name="feedback")
    op.drop_table("feedback")
    op.drop_table("provider_model")
    op.drop_index(op.f("provider_key_provider_id_idx"), table_name="provider_key")
    op.drop_table("provider_key")
    op.drop_index(op.f("provider_check_provider_id_idx"), table_name="provider_check")
    op.drop_table("provider_check")
    op.drop_index("usage_route_at_idx", table_name="usage")
    op.drop_index(op.f("usage_request_id_idx"), table_name="usage")
    op.drop_index("usage_key_id_at_idx", table_name="usage")
    op.drop_index("usage_at_idx", table_name="usage")
    op.drop_index("usage_account_id_at_idx", table_name="usage")
    op.drop_table("usage")
    op.drop_index(op.f("trace_request_id_idx"), table_name="trace")
    op.drop_index(op.f("trace_at_idx"), table_name="trace")
    op.drop_table("trace")
    op.drop_table("tier")
    op.drop_table("team")
    op.drop_table("route")
    op.drop_table("provider")
    op.drop_table("price")
    op.drop_table("preset")
    op.drop_table("meter_lease")
    op.drop_table("meter")
    op.drop_index(op.f("kept_answer_expires_at_idx"), table_name="kept_answer")
    op.drop_table("kept_answer")
    op.drop_table("gateway_replica")
    op.drop_table("budget")
