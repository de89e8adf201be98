"""`tenantd`, and `python -m tenantd`: signals are taken before the imports, which last half a second."""

from __future__ import annotations

from tenantd import signals


def main() -> None:
    """The program."""
    signals.hold()
    from tenantd.main import main as daemon

    daemon()


if __name__ == "__main__":
    main()
