"""Logins: passwords, sessions, attempts, identities at a provider; personal data under keys of their own; scopes of API keys"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = sa.DateTime(timezone=True)
DIGEST = sa.String(length=64)


def _account(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["account_id"], ["account.id"], name=op.f(f"{table}_account_id_fkey"))


def upgrade() -> None:
    scopes = sa.ARRAY(sa.String(length=16))
    op.add_column("api_key", sa.Column("scopes", scopes, server_default=sa.text("'{}'"), nullable=False))
    op.add_column("api_key", sa.Column("used_at", TIME, nullable=True))
    op.create_table(
        "password",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("phc", sa.String(length=200), nullable=False),
        sa.Column("changed_at", TIME, server_default=NOW, nullable=False),
        _account("password"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("password_pkey")),
    )
    op.create_table(
        "login_session",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("refresh_sha256", DIGEST, nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("used_at", TIME, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        _account("login_session"),
        sa.PrimaryKeyConstraint("id", name=op.f("login_session_pkey")),
        sa.UniqueConstraint("refresh_sha256", name=op.f("login_session_refresh_sha256_key")),
    )
    for column in ("account_id", "expires_at"):
        op.create_index(op.f(f"login_session_{column}_idx"), "login_session", [column])
    op.create_table(
        "spent_refresh",
        sa.Column("refresh_sha256", DIGEST, nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["login_session.id"],
            name=op.f("spent_refresh_session_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("refresh_sha256", name=op.f("spent_refresh_pkey")),
    )
    op.create_index(op.f("spent_refresh_session_id_idx"), "spent_refresh", ["session_id"])
    op.create_table(
        "login_attempts",
        sa.Column("subject", DIGEST, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("locked_until", TIME, nullable=True),
        sa.PrimaryKeyConstraint("subject", name=op.f("login_attempts_pkey")),
    )
    op.create_index(op.f("login_attempts_last_at_idx"), "login_attempts", ["last_at"])
    op.create_table(
        "oidc_login",
        sa.Column("state_sha256", DIGEST, nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("verifier", sa.String(length=128), nullable=False),
        sa.Column("redirect_uri", sa.String(length=200), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("state_sha256", name=op.f("oidc_login_pkey")),
    )
    op.create_index(op.f("oidc_login_expires_at_idx"), "oidc_login", ["expires_at"])
    op.create_table(
        "external_identity",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("issuer", sa.String(length=200), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        _account("external_identity"),
        sa.PrimaryKeyConstraint("id", name=op.f("external_identity_pkey")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("external_identity_issuer_subject_key")),
    )
    op.create_index(op.f("external_identity_account_id_idx"), "external_identity", ["account_id"])
    op.create_table(
        "subject",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("erased_at", TIME, nullable=True),
        sa.CheckConstraint(
            "erased_at IS NULL OR (sealed_key IS NULL AND sealed IS NULL)", name=op.f("subject_erased_check")
        ),
        _account("subject"),
        sa.PrimaryKeyConstraint("account_id", name=op.f("subject_pkey")),
    )


def downgrade() -> None:
    for table in (
        "subject",
        "external_identity",
        "oidc_login",
        "login_attempts",
        "spent_refresh",
        "login_session",
        "password",
    ):
        op.drop_table(table)
    for column in ("used_at", "scopes"):
        op.drop_column("api_key", column)
