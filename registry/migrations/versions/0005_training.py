"""Data sets of several shapes"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "dataset", sa.Column("shape", sa.String(length=16), server_default="conversation", nullable=False)
    )


def downgrade() -> None:
    op.drop_column("dataset", "shape")
