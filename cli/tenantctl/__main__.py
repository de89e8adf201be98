"""`tenantctl`, and `python -m tenantctl`: signals are taken before the imports, or Ctrl-C would print a traceback."""

from __future__ import annotations

from tenantd import signals


def main() -> None:
    """The program."""
    signals.hold()
    from tenantctl.main import main as program

    program()


if __name__ == "__main__":
    main()
