"""Whose usage a caller may see: approvers and administrators everyone's, others their own account's.

Prompts, answers and corrections are nearer to people than numbers: everyone's only administrators see.
"""

from __future__ import annotations

import uuid

from sqlalchemy.orm import Session

from raymill.policies.errors import Denied
from raymill.registry import identity
from raymill.registry.tables import Account, Role
from raymill.serve.api.access import reaches
from raymill.serve.api.context import Caller


def sees_all(who: Caller, lowest: Role = Role.APPROVER) -> bool:
    return reaches(who.role, lowest)


def account_in_reach(opened: Session, who: Caller, name: str, lowest: Role = Role.APPROVER) -> Account:
    """The account of that name.

    Raises:
        Denied: it is another's than the caller's, who may not see that, whether it exists or not.
        NotFound: there is none.
    """
    if name != who.actor.name and not sees_all(who, lowest):
        raise Denied(
            f"{who.actor.name} is {who.role.value} and sees the own account only: "
            f"leave the account out, or ask for the role {lowest.value}"
        )
    return identity.find_account(opened, name)


def only_own(opened: Session, who: Caller, lowest: Role = Role.APPROVER) -> uuid.UUID | None:
    """The id of the one account that the caller sees; None when it is every one."""
    return None if sees_all(who, lowest) else identity.find_account(opened, who.actor.name).id
