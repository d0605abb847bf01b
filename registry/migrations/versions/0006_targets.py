"""Scores of what is no artifact of ours: endpoints and what the gateway answers for, with tokens and costs"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NUMBERS = ("prompt_tokens", "completion_tokens", "cost_micro_usd")


def upgrade() -> None:
    op.alter_column("evaluation", "artifact_name", existing_type=sa.String(length=200), nullable=True)
    op.add_column("evaluation", sa.Column("target", sa.String(length=400), nullable=True))
    op.add_column("evaluation", sa.Column("backend", sa.String(length=16), nullable=True))
    for name in NUMBERS:
        op.add_column("evaluation", sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_index("evaluation_target_idx", "evaluation", ["target"])
    op.create_check_constraint(
        op.f("evaluation_of_one_thing_check"), "evaluation", "(artifact_name IS NULL) <> (target IS NULL)"
    )


def downgrade() -> None:
    op.execute("DELETE FROM evaluation WHERE artifact_name IS NULL")
    op.drop_constraint(op.f("evaluation_of_one_thing_check"), "evaluation", type_="check")
    op.drop_index("evaluation_target_idx", table_name="evaluation")
    for name in ("target", "backend", *NUMBERS):
        op.drop_column("evaluation", name)
    op.alter_column("evaluation", "artifact_name", existing_type=sa.String(length=200), nullable=False)
