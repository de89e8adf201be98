"""`tenantctl`, and `python -m tenantctl`: signals are taken before the imports, or Ctrl-C would print a traceback."""

from __future__ import annotations

import sys

from tenantd import __version__, signals


def main() -> None:
    """The program."""
    signals.hold()
    if sys.argv[1:] == ["--version"]:
        print(f"tenantctl {__version__}")
        return
    if len(sys.argv) == 2 and sys.argv[1] in ("_tenants", "_keys", "_requests", "_recent"):
        from tenantctl.completing import print_offers

        print_offers(sys.argv[1].removeprefix("_"))
        return
    from tenantctl.main import main as program

    program()


if __name__ == "__main__":
    main()
