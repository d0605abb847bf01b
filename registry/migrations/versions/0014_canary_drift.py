"""Looks for drift at canaries: which promotion's version was looked at"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("drift_run", sa.Column("promotion_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("drift_run_promotion_id_fkey"), "drift_run", "promotion", ["promotion_id"], ["id"]
    )


def downgrade() -> None:
    op.drop_column("drift_run", "promotion_id")
