"""Times of cron schedules: five fields in a time zone, with daylight saving as Debian's cron has it.

A time that does not exist in spring runs at once after the gap; one that comes twice in autumn runs once.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo

from cronsim import CronSim, CronSimError

from raymill.policies.errors import Invalid

FIELDS = 5
MAX_SCHEDULE_CHARS = 200


def check_schedule(schedule: str, timezone: str) -> None:
    """Raises Invalid when the schedule is none or never comes, or there is no such time zone."""
    if next_time(schedule, timezone, dt.datetime.now(dt.UTC)) is None:
        raise Invalid(f"schedule {schedule!r} never comes: correct it", param="config.schedule")


def next_time(schedule: str, timezone: str, after: dt.datetime) -> dt.datetime | None:
    """The first time after `after`, in UTC; None when there is none in the next 50 years. Raises Invalid."""
    return _first(schedule, timezone, after, reverse=False)


def last_time(schedule: str, timezone: str, until: dt.datetime) -> dt.datetime | None:
    """The last time that is not after `until`, in UTC. Raises Invalid."""
    # Backwards it begins before the second that it is given.
    return _first(schedule, timezone, until.replace(microsecond=0) + dt.timedelta(seconds=1), reverse=True)


def _first(schedule: str, timezone: str, start: dt.datetime, *, reverse: bool) -> dt.datetime | None:
    if len(schedule) > MAX_SCHEDULE_CHARS or len(schedule.split()) != FIELDS:
        raise Invalid(
            f"schedule {schedule[:80]!r} does not have {FIELDS} fields: minute hour day month weekday, "
            "such as `0 3 * * 1`",
            param="config.schedule",
        )
    local = start.astimezone(_zone(timezone))
    try:
        found: dt.datetime | None = next(CronSim(schedule, local, reverse=reverse), None)
    except CronSimError as error:
        raise Invalid(
            f"schedule {schedule!r}: {error}: write minute hour day month weekday, such as `0 3 * * 1`",
            param="config.schedule",
        ) from None
    return found.astimezone(dt.UTC) if found is not None else None


def _zone(timezone: str) -> dt.tzinfo:
    if timezone == "UTC":
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(
            f"no time zone {timezone[:80]!r}: name one such as Europe/Berlin or UTC", param="config.timezone"
        ) from None
