"""Which Serve application answers for a deployment, for adapters share one"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployment", sa.Column("serving_application", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("deployment", "serving_application")
