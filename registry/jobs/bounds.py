"""SQL: what bounds a claim beside its queue: quotas of teams, and the GPUs that are free.

Both are sums over running jobs, which no index can hold. Whoever claims from a queue that has a ready job of a team with a
quota, or one that waits for accelerators, does so under one lock of the whole database, and sums in a later statement, which
sees what the last one took. Queues without such jobs are claimed from without it, and never give such a job out.

Quotas count what is claimed from their setting on; they take nothing away from what runs. A job that does not fit is passed
by smaller ones. Free GPUs are the engine's last look at Ray, or what the jobs that have been claimed leave, whichever is
less; Ray itself decides, so one too many waits there.
"""

from __future__ import annotations

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('raymill job bounds', 2))"

# Whether the queue has ready jobs that are bound so. One look into an index for each team with a quota, and one more.
BOUND = """(
    EXISTS (SELECT FROM job AS bound WHERE bound.state = 'queued' AND bound.waiting_on = 0
            AND bound.accelerator IS NOT NULL AND bound.queue = %(queue)s)
    OR EXISTS (SELECT FROM team_quota CROSS JOIN LATERAL (
                   SELECT FROM job AS bound WHERE bound.state = 'queued' AND bound.waiting_on = 0
                   AND bound.team_id = team_quota.team_id AND bound.queue = %(queue)s LIMIT 1) AS any_of_team))"""

# What is left: of each quota (NULL: no bound), and of each type of accelerator.
LEFT = """
quota AS MATERIALIZED (
    SELECT team_quota.team_id, max_running - coalesce(used.running, 0) AS running,
           max_gpus - coalesce(used.gpus, 0) AS gpus, max_cpus - coalesce(used.cpus, 0) AS cpus
    FROM team_quota LEFT JOIN (
        SELECT team_id, count(*) AS running, sum(gpus) AS gpus, sum(cpus) AS cpus FROM job
        WHERE state = 'running' AND team_id IS NOT NULL GROUP BY team_id) AS used USING (team_id)),
spare AS MATERIALIZED (
    SELECT name, least(free, accelerator.gpus - coalesce((
        SELECT sum(job.gpus) FROM job WHERE job.state = 'running' AND job.accelerator IS NOT NULL
        AND accelerator.name IN ('any', job.accelerator)), 0)) AS gpus
    FROM accelerator),
"""

# Columns and condition of a candidate: it fits by itself.
COLUMNS = ", team_id, gpus, cpus, accelerator"
WITHIN_QUOTA = """NOT EXISTS (SELECT FROM quota WHERE quota.team_id = job.team_id AND (
              quota.running < 1 OR quota.cpus < job.cpus OR job.gpus > 0 AND quota.gpus < job.gpus))"""
FITS = f"""
          AND (job.team_id IS NULL OR job.team_id <> ALL (ARRAY(SELECT team_id FROM quota WHERE running < 1)))
          AND {WITHIN_QUOTA}
          AND (job.accelerator IS NULL
               OR EXISTS (SELECT FROM spare WHERE spare.name = job.accelerator AND spare.gpus >= job.gpus))"""

# Of those the ones that fit together with the more urgent ones of this claim.
TOGETHER = """
added AS (
    SELECT *, count(*) OVER team AS sum_running, sum(gpus) OVER team AS sum_gpus, sum(cpus) OVER team AS sum_cpus,
           sum(gpus) OVER type AS sum_type
    FROM candidate
    WINDOW team AS (PARTITION BY team_id ORDER BY priority DESC, run_at, id),
           type AS (PARTITION BY accelerator ORDER BY priority DESC, run_at, id)),
ready AS MATERIALIZED (
    SELECT added.* FROM added
    LEFT JOIN quota USING (team_id) LEFT JOIN spare ON spare.name = added.accelerator
    WHERE (quota.running IS NULL OR sum_running <= quota.running)
      AND (quota.cpus IS NULL OR sum_cpus <= quota.cpus)
      AND (quota.gpus IS NULL OR added.gpus = 0 OR sum_gpus <= quota.gpus)
      AND (added.accelerator IS NULL OR sum_type <= spare.gpus)),
"""
