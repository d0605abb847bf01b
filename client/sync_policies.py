"""The blocking client's promotion rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from raymill.client import policy_endpoints as calls
from raymill.client import policy_types as types
from raymill.client.endpoints import Id
from raymill.client.sync_control import Resource
from raymill.client.validation import checked


class Policies(Resource):
    """Promotion rules in Rego, by name and number."""

    def list(self, *, limit: int | None = None) -> Iterator[types.Policy]:
        """Every version, newest first."""
        return self._http.items(calls.policies(), limit)

    def get(self, name: str, *, number: int | None = None) -> types.Policy:
        """A version, by default the newest."""
        return self._http.send(calls.policy(name, number))

    def save(self, name: str, files: Mapping[str, str]) -> types.Policy:
        """The next version of a policy: compiled, its tests passed. The newest again is no new version."""
        return self._http.send(calls.save(checked(types.PolicyRequest, {"name": name, "files": dict(files)})))

    def test(self, files: Mapping[str, str]) -> types.PolicyTests:
        """Compile rules and run their `test_` rules. Nothing is kept."""
        return self._http.send(calls.test(checked(types.PolicyFiles, {"files": dict(files)})))

    def dry_run(
        self, files: Mapping[str, str], *, alias: str | None = None, limit: int = 100
    ) -> types.DryRun:
        """On which of the newest promotions these rules would have decided otherwise."""
        given = {"files": dict(files), "alias": alias, "limit": limit}
        return self._http.send(calls.dry_run(checked(types.DryRunRequest, given)))

    def explain(self, promotion_id: Id) -> types.Explanation:
        """Which rules stand against a promotion, and what they looked at."""
        return self._http.send(calls.explain(promotion_id))

    def replay(self, promotion_id: Id) -> types.Replay:
        """Make a stored decision again, and see that it is the same."""
        return self._http.send(calls.replay(promotion_id))
