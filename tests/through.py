"""The tests of the twins through a pooler: ``PREFIQ_THROUGH=pgbouncer pytest tests/twins -m postgresql``.

The backend's URL then leads through a real pgbouncer in transaction mode to a server that isn't in UTC, and each
database on it has ``pgbouncer`` on. What can't work there is skipped by name, with the reason: see :data:`UNABLE`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from prefiq_db import DatabaseSettings
from prefiq_db.testing import DatabaseServer, PgBouncer
from tests.clusters import find

IS_ON: Final = os.environ.get("PREFIQ_THROUGH") == "pgbouncer"
#: whoever connects to one of these reaches a pooler, perhaps through a proxy
ports: Final[set[int]] = set()
ZONE: Final = "Asia/Kathmandu"  # 5:45 before UTC: nothing that is off by hours goes unseen

_LOOKS_AT_SESSION = "it looks for the client's own session at the server, which the pooler keeps for others"
_POOLERS_LOSS = "the session that the server ends is the pooler's, which takes another one"
_NOT_PREPARED = "it is about prepared statements, and none are made there"
_OTHER_PROGRAM = "it asks in a program with settings of its own"
_COMMIT_TRAVELS = (
    "a single statement that may write and is interrupted goes on to its end there: its COMMIT travels with it"
)
_ITS_TRANSACTION = "a single statement is a transaction of its own there: it is told as one, and known as undone"
_OWN_WORDS = "the pooler says in words of its own that the server ended a session"
_OWN_ADDRESS = "it asks for the server's own address"
_MIGRATES = "it migrates, and that needs a lock of a session"
_NO_SHORT_WAY = "the short way is for sessions that keep the limits"
_STAYS = "SET without LOCAL stays on the pooler's session, for whoever gets it next"
_DIES = "pgbouncer 1.18 ends itself when a client breaks off while its request to cancel is being sent on"
_OF_THE_TRANSACTION = "limits are the transaction's there, not the session's"

#: By the beginning of the test's id, and after a ``*`` its end: why it can't pass through a pooler.
UNABLE: Final[dict[str, str]] = {
    f"tests/twins/test_{name}": reason
    for name, reason in {
        "tenant_schemas.py::test_a_search_path_of_ones_own_ends": _STAYS,
        "read_only.py::test_connections_of_the_engine_refuse_to_write": "AUTOCOMMIT of a read-only database is refused",
        "both_roads.py::test_every_statement_is_the_same_on_the_short_way": _NO_SHORT_WAY,
        "prepared_statements.py": _NOT_PREPARED,
        "event_sequences.py::test_a_connection_that_was_lost_in_the_pool": _POOLERS_LOSS,
        "event_sequences.py::test_a_connection_that_is_lost_in_a_transaction": _POOLERS_LOSS,
        "exactly_once.py::test_who_locks_the_row_is_not_ended": _LOOKS_AT_SESSION,
        "exit.py": _OTHER_PROGRAM,
        "stream_memory.py": _OTHER_PROGRAM,
        "retry_budget.py::test_a_server_that_is_down": _OWN_ADDRESS,
        "silent_frames.py::test_what_interrupts_brings_no_values_along": _COMMIT_TRAVELS,
        "telemetry.py::test_attempts_of_a_call_are_one_span": _POOLERS_LOSS,
        "telemetry.py::test_a_call_is_a_span_by_the_conventions": _OWN_ADDRESS,
        "left_running.py::test_a_cancelled_write_that_waits_for_a_row": _COMMIT_TRAVELS,
        "observability.py::test_one_statement_tells_its_whole_story": _ITS_TRANSACTION,
        "judged_once.py::test_pythons_own_timeout_is_no_cancellation": _ITS_TRANSACTION,
        "judged_once.py::test_one_judgement_for_everybody*-server_shutdown]": _OWN_WORDS,
        "health_schema.py::test_whoever_began_with_our_history": _MIGRATES,
        "health_schema.py::test_a_service_is_ready_when_its_schema": _MIGRATES,
        "read_only.py::test_migrations_are_refused_and_looking": _MIGRATES,
        "passwords.py::test_prefer_says_once_that_it_fell_back": _OWN_ADDRESS,
        "fork.py::test_both_sides_go_on_after_a_fork": _LOOKS_AT_SESSION,
        "fork.py::test_multiprocessing": _OTHER_PROGRAM,
        "fork.py::test_a_child_that_ends_properly": _LOOKS_AT_SESSION,
        "sessions.py::test_a_postgresql_session_is_in_utc_with_limits": _OF_THE_TRANSACTION,
        "transactions.py::test_a_timeout_used_once_changes_nothing_later": _OF_THE_TRANSACTION,
        "upsert_faults.py::test_a_lost_reply_is_never_repeated_on_a_guess": _ITS_TRANSACTION,
        "upsert_faults.py::test_a_request_that_never_arrives": _ITS_TRANSACTION,
        "upsert_faults.py::test_a_deadlock_of_a_single_statement": _LOOKS_AT_SESSION,
        "upsert_faults.py::test_a_silent_server_is_left_in_time": _DIES,
        "batch_faults.py::test_a_silent_server_is_given_up": _DIES,
        "awaited_waits.py::test_a_call_that_is_refused_after_its_wait": _NO_SHORT_WAY,
        "cancelled_crowds.py::test_control_a_connection_that_does_not_come_back": _ITS_TRANSACTION,
        "returns.py::test_a_connection_that_comes_back_while_the_pool_is_closed*-sync-short]": _NO_SHORT_WAY,
        "batch.py::test_each_batch_brings_its_limits": "it compares with the setting off",
        "exactly_once.py::test_a_server_that_stays_away_leaves_a_token": _OTHER_PROGRAM,
        "pool.py::test_control_without_the_poll_the_write_is_lost": _POOLERS_LOSS,
        "hand_backs.py::test_a_changed_session_is_not_handed_on": _STAYS,
        "one_statement.py::test_what_ends_with_the_transaction_costs_no_connection": _LOOKS_AT_SESSION,
        "in_lists.py::test_lists_leave_prepared_statements_alone": _NOT_PREPARED,
        "usual_transactions.py": _NO_SHORT_WAY,
        "known_constructs.py": _NO_SHORT_WAY,
        "awaited_waits.py::test_a_call_that_is_listened_to_waits_in_a_coroutine": _NO_SHORT_WAY,
        "both_roads.py::test_every_statement_is_the_same_with_overrides_on_the_short_way": _NO_SHORT_WAY,
        "both_roads.py::test_every_way_into_a_transaction_is_short": _NO_SHORT_WAY,
        "both_roads.py::test_a_difference_planted_inside_is_found": _NO_SHORT_WAY,
        "event_sequences.py::test_a_one_shot": _ITS_TRANSACTION,
        "event_sequences.py::test_a_statement_that_fails": _ITS_TRANSACTION,
        "event_sequences.py::test_control_what_is_not_told_so_is_found": _ITS_TRANSACTION,
        "time_limits.py::test_the_very_same_comes_out*-by_verb]": _COMMIT_TRAVELS,
        "tenants_review.py::test_a_prepared_statement_is_of_one_schema": _NOT_PREPARED,
        "tenant_schemas.py::test_a_dead_connection_costs_no_call": _POOLERS_LOSS,
        "tenants_review.py::test_what_a_session_changes_on_its_connection_ends_with_it": _STAYS,
        "tenants_review.py::test_a_raw_connection_of_a_tenant_is_not_used_again": _LOOKS_AT_SESSION,
        "wrong_node.py::test_a_read_only_server_empties_the_pool": _LOOKS_AT_SESSION,
    }.items()
}


def pooler(server: DatabaseServer) -> Iterator[PgBouncer]:
    """Run pgbouncer in front of a server, whose time zone it changes."""
    # It refuses everybody for 15 s after a login that failed, as one does when a test ends the sessions of a database.
    settings = {"server_login_retry": "0.1"}
    with find("pgbouncer", PgBouncer, server=server, pool_size=20, settings=settings) as made:
        server.execute(f"alter system set timezone = '{ZONE}'")
        server.execute("select pg_reload_conf()")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DatabaseSettings, "__init__", _initialised())
            ports.add(made.port)
            yield made


def part_with(front: object, database: str) -> None:
    """End the pooler's sessions in *database*: its next client would get one that the server has ended meanwhile."""
    if isinstance(front, PgBouncer):
        if not front.running:
            front.start()  # for the next test
            pytest.fail("pgbouncer has ended", pytrace=False)
        front.admin(f"KILL {database}")
        front.admin(f"RESUME {database}")


def _initialised() -> Callable[..., None]:
    """Return what makes settings with ``pgbouncer`` on, if their URL leads to the pooler and nothing else is said."""
    original = DatabaseSettings.__init__

    def initialise(self: DatabaseSettings, **given: Any) -> None:
        leads_there = any(f":{port}/" in str(given.get("url")) for port in ports)
        needed = {"pgbouncer": True} if leads_there else {}
        original(self, **{**needed, **given})

    return initialise


def choose(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that reach a server of their own, and skip those that can't pass."""
    passing_by = {item for item in items if "backend" not in getattr(item, "fixturenames", ())}
    if passing_by:
        config.hook.pytest_deselected(items=list(passing_by))
        items[:] = [item for item in items if item not in passing_by]
    for item in items:
        reason = next((why for name, why in UNABLE.items() if _is_meant(name, item.nodeid)), None)
        if reason is not None and item.get_closest_marker("postgresql"):
            item.add_marker(pytest.mark.skip(reason=f"not through a transaction pooler: {reason}"))


def _is_meant(name: str, test: str) -> bool:
    beginning, _, end = name.partition("*")
    return test.startswith(beginning) and test.endswith(end)
