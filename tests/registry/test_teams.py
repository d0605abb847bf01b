"""Teams: who is in which, and what happens to all of them at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select
from tests.registry.making import ADA
from tests.registry.using import make_account

from raymill.cluster.wake import Wake
from raymill.policies.errors import Conflict, NotFound
from raymill.registry import gateway_config, identity, teams
from raymill.registry.audit import Actor
from raymill.registry.database import Database
from raymill.registry.tables import AuditEvent, Role


def actions(database: Database) -> list[str]:
    with database.transaction() as session:
        return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.seq)))


def members(database: Database) -> dict[str, list[str]]:
    with database.transaction() as session:
        return {team.name: names for team, names in teams.list_teams(session)}


def test_accounts_go_into_a_team_and_out_of_it(database: Database) -> None:
    with database.transaction() as session:
        teams.create_team(session, "ops", ADA)
        teams.create_team(session, "art", ADA)
    make_account(database, "bob", team="ops")
    make_account(database, "ann")
    with database.transaction() as session:
        teams.put_into_team(session, identity.find_account(session, "ann", lock=True), "ops", ADA)
    assert members(database) == {"art": [], "ops": ["ann", "bob"]}
    with database.transaction() as session:
        teams.put_into_team(session, identity.find_account(session, "bob"), "art", ADA)
        teams.put_into_team(session, identity.find_account(session, "ann"), None, ADA)
    assert members(database) == {"art": ["bob"], "ops": []}
    assert actions(database)[-3:] == ["account.team"] * 3


def test_what_changes_nothing_is_not_told(database: Database) -> None:
    with database.transaction() as session:
        teams.create_team(session, "ops", ADA)
    make_account(database, "bob", team="ops")
    before = actions(database)
    with database.transaction() as session:
        teams.put_into_team(session, identity.find_account(session, "bob"), "ops", ADA)
        teams.set_disabled(session, "ops", False, ADA)
    assert actions(database) == before


def test_a_disabled_team_shuts_its_accounts_out_and_the_gateways_are_told(database: Database) -> None:
    with database.transaction() as session:
        teams.create_team(session, "ops", ADA)
        identity.create_account(session, "bob", Role.VIEWER, ADA, team="ops")
        _, key = identity.create_key(session, "bob", "laptop", ADA)
    wake = Wake(database.url, gateway_config.CONFIG_CHANNEL)
    wake.wait(0.1)
    with database.transaction() as session:
        assert identity.authenticate(session, key) is not None
        assert teams.set_disabled(session, "ops", True, ADA).disabled_at is not None
        assert identity.authenticate(session, key) is None
    assert wake.wait(5)
    wake.close()
    with database.transaction() as session:
        teams.set_disabled(session, "ops", False, ADA)
        assert identity.authenticate(session, key) is not None
    assert actions(database)[-2:] == ["team.disable", "team.enable"]


def test_nobody_shuts_themselves_out(database: Database) -> None:
    bob = Actor(name="bob")
    with database.transaction() as session:
        teams.create_team(session, "ops", bob)
        account = identity.create_account(session, "bob", Role.ADMIN, bob, team="ops")
        with pytest.raises(Conflict, match="`raymill team remove ops bob`"):
            teams.set_disabled(session, "ops", True, bob)
        with pytest.raises(Conflict, match="'bob' is your own account"):
            identity.set_disabled(session, account, True, bob)
        teams.put_into_team(session, account, None, bob)
        teams.set_disabled(session, "ops", True, bob)
        with pytest.raises(Conflict, match="enable it first"):
            teams.put_into_team(session, account, "ops", bob)


def test_an_account_is_disabled_and_enabled_again(database: Database) -> None:
    with database.transaction() as session:
        account = identity.create_account(session, "bob", Role.VIEWER, ADA)
        _, key = identity.create_key(session, "bob", "laptop", ADA)
        for disabled in (True, True, False):
            identity.set_disabled(session, account, disabled, ADA)
            assert (identity.authenticate(session, key) is None) is disabled
    assert actions(database)[-2:] == ["account.disable", "account.enable"]


def test_what_is_not_there_is_named(database: Database) -> None:
    with database.transaction() as session:
        with pytest.raises(NotFound, match="no team 'ops': make it with `raymill team create ops`"):
            teams.find_team(session, "ops")
        with pytest.raises(NotFound, match="no team 'ops'"):
            identity.create_account(session, "bob", Role.VIEWER, ADA, team="ops")
        with pytest.raises(NotFound, match="no tier 'gold': the tiers are enterprise, free, pro"):
            identity.create_account(session, "bob", Role.VIEWER, ADA, tier="gold")
        with pytest.raises(NotFound, match="no account 'bob'"):
            identity.find_account(session, "bob")


def test_a_name_is_taken_once_also_by_eight_at_once(database: Database) -> None:
    def create(_: int) -> bool:
        try:
            with database.transaction() as session:
                teams.create_team(session, "ops", ADA)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(create, range(8))) == 1
