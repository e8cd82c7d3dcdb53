"""What the status flags of MariaDB's and MySQL's replies mean.

Source: https://mariadb.com/docs/server/reference/clientserver-protocol/4-server-response-packets/ok_packet
"""

from __future__ import annotations

from typing import Final

IN_TRANSACTION: Final = 1
AUTOCOMMIT: Final = 2
# At rest means only the second flag: no transaction is open, and each statement commits itself.
AT_REST_OF: Final = IN_TRANSACTION | AUTOCOMMIT
