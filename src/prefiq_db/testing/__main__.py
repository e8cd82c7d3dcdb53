"""``python -m prefiq_db.testing KIND``: a cluster to try things on, from installed programs, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final, NoReturn

from prefiq_db.testing.galera_cluster import GaleraCluster
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.mariadb_cluster import MariaDbCluster
from prefiq_db.testing.mariadb_server import PLAIN_USER
from prefiq_db.testing.patroni_cluster import PatroniCluster
from prefiq_db.testing.postgresql_cluster import PostgresCluster

_REPLICATED: Final = {"postgresql": PostgresCluster, "mariadb": MariaDbCluster}
_VOTING: Final = {"galera": GaleraCluster, "patroni": PatroniCluster}
_KINDS: Final = """\
  postgresql  a primary, and replicas by streaming replication
  mariadb     a primary, and replicas by GTID
  galera      MariaDB nodes that all take writes
  patroni     PostgreSQL nodes that fail over by themselves
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 when it was ended, 1 without the programs, 2 for wrong arguments."""
    given = _parser().parse_args(arguments)
    # SIGTERM, as a service manager or `timeout` sends it, ends the servers as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(given.kind, given.nodes)
    except ServerUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        pass  # it is how this ends
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prefiq_db.testing",
        description="Start a cluster on this machine, print the settings for it, and end it at Ctrl-C.",
        epilog=f"kinds:\n{_KINDS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=[*_REPLICATED, *_VOTING], metavar="KIND", help="see below")
    parser.add_argument("--nodes", type=_node_count, default=3, help="how many servers, 2 to 9; default: 3")
    return parser


def _node_count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 2 <= count <= 9:
        raise argparse.ArgumentTypeError("expected a number from 2 to 9")
    return count


def _run(kind: str, nodes: int) -> None:
    _say(f"# starting {nodes} servers")
    cluster: Any = _REPLICATED[kind](replicas=nodes - 1) if kind in _REPLICATED else _VOTING[kind](nodes=nodes)
    with cluster:
        database = cluster.create_database()
        if kind == "mariadb":  # else nobody would see lag and roles
            cluster.primary.execute(f"grant slave monitor on *.* to {PLAIN_USER}")
            cluster.catch_up()
        _say(f"export DB_URL='{cluster.url(database)}'")
        if kind != "galera":
            # Each may become the primary, and gets no reads while it is.
            _say(f"export DB_REPLICAS='{','.join(cluster.url(database, node) for node in cluster.nodes)}'")
        _say("# running; Ctrl-C ends all of them and removes their data")
        while True:
            signal.pause()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # somebody may read it through a pipe


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
