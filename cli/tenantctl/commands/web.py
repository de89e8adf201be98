"""`tenantctl web`: the web page, for an administrator on the daemon's machine."""

from __future__ import annotations

import os
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from tenantctl.client import url
from tenantctl.options import Json, connect, examples, words
from tenantctl.render import message, print_json
from tenantctl.units import plural

EXAMPLES: Final = examples("tenantctl web", "tenantctl web --close    [dim]# end all pages opened with it[/]")


def web(
    ctx: typer.Context,
    close: Annotated[bool, typer.Option("--close", help="End all pages that were opened with this command.")] = False,
    json: Json = False,
) -> None:
    """Open the web page as an administrator.

    Prints an address for a browser on this machine. It works once, within a minute. The page ends after 30 minutes
    without use. Tenants log in instead at /web/ on a TCP listener, with their key.
    """
    with connect(ctx) as client:
        _ = client.socket  # raises at a URL, before anything is opened that cannot be reached
        answer = client.delete(url("web")) if close else client.post(url("web"))
    if json:
        print_json(answer)
    elif close:
        ended = answer["ended"]
        message("no page was open" if not ended else f"ended {plural(ended, 'page')}")
    else:
        message(f"open this address within {answer['expires_s']:g} s; it works once, as an administrator:")
        print(answer["url"])
        _tell_more(answer["url"], words(ctx))


def _tell_more(address: str, command: str) -> None:
    port = urlsplit(address).port
    if "SSH_CONNECTION" in os.environ:
        message(f"on your own machine, forward the port first: ssh -N -L {port}:127.0.0.1:{port} USER@THIS-MACHINE")
    message(f"to end all pages opened like this: {command} web --close")
