"""Two CHECKs on jobs instead of six: Postgres parses each anew for every statement"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATES = "'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled', 'dead'"
OLD = {
    "counters_not_negative": "epoch >= 0 AND attempt >= 0 AND waiting_on >= 0 AND losses >= 0",
    "lease_while_running": "(state = 'running') = (lease_until IS NOT NULL)",
    "slot_while_running": "slot IS NULL OR state = 'running'",
    "jobstate": f"state IN ({STATES})",
    "onparentfailure": "on_parent_failure IN ('skip', 'fail', 'run')",
}
NEW = "(state = 'running') = (lease_until IS NOT NULL) AND (slot IS NULL OR state = 'running')"


def upgrade() -> None:
    for name in OLD:
        op.drop_constraint(op.f(f"job_{name}_check"), "job")
    op.create_check_constraint(op.f("job_held_while_running_check"), "job", NEW)


def downgrade() -> None:
    op.drop_constraint(op.f("job_held_while_running_check"), "job")
    for name, condition in OLD.items():
        op.create_check_constraint(op.f(f"job_{name}_check"), "job", condition)
