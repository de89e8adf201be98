"""Run by a test in a process of its own, to be killed: upgrades a ledger and waits at each line it logs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tenantd.ledger import accounted, tenant_ids
from tenantd.ledger.database import connect_writer
from tenantd.ledger.migrations import migrate


class Waiting(logging.Handler):
    """Writes to standard output, and goes on when there is a line on standard input."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), flush=True)
        sys.stdin.readline()


def main(folder: Path) -> None:
    logging.basicConfig(handlers=[Waiting()], level=logging.INFO)
    tenant_ids.BATCH_ROWS, tenant_ids.PROGRESS_INTERVAL_S = 500, 0.0
    accounted.BATCH_ROWS, accounted.PROGRESS_INTERVAL_S = 500, 0.0
    migrate(connect_writer(folder / "ledger.db", 1000), "ledger.db")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
