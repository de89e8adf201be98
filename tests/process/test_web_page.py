"""The web page of a daemon: who gets in, what a session may see and do, and what pages of others may not."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tenantd.api.web.page_files import NAMES
from tenantd.api.web.pages import HOME, PAGE_HEADER
from tests.support.daemon import Daemon, wait_until
from tests.support.network import urls
from tests.support.program import tenantctl

FOLDER = Path(__file__).parents[2] / "tenantd" / "web"
MARKUP = "<img src=x onerror=alert(1)>"
NAME = "llm.example.org"
PLAIN: dict[str, Any] = {"trust_env": False, "verify": False, "timeout": 120}  # certificates would be read each time


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    listen = [
        {"address": "127.0.0.1:0"},
        {"address": "0.0.0.0:0", "plaintext": True},
        {"address": "127.0.0.1:0", "hosts": [NAME], "web": True},
        {"address": "127.0.0.1:0", "web": False},
    ]
    settings: dict[str, dict[str, Any]] = {
        "server": {"listen": listen},
        "engine": {"fake_step_micros": 2000, "context_tokens": 200_000},
        "billing": {"issuer": MARKUP, "terms": MARKUP},
    }
    with Daemon(tmp_path_factory.mktemp("web"), **settings) as daemon:
        yield daemon


class Browser:
    """One that has the page open, with its cookies; it sends the page's secret once it has logged in."""

    def __init__(self, url: str, *, host: str = "") -> None:
        self.url = url
        self.origin = f"https://{host}" if host else url
        self.page = ""
        self._always = {"host": host} if host else {}
        self._cookies = httpx.Cookies()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {"origin": self.origin} if method != "GET" else {}
        if self.page:
            sent[PAGE_HEADER] = self.page
        return self.ask(method, HOME + path, body, {**sent, **headers})

    def ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        with httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=120, cookies=self._cookies) as http:
            answer = http.request(method, path, json=body, headers={**self._always, **headers})
            self._cookies = http.cookies
            return answer

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.send("GET", path, **headers)

    def log_in(self, **secret: str) -> httpx.Response:
        answer = self.send("POST", "session", secret)
        self.page = answer.json().get("page", "")
        return answer

    def status(self, path: str, **headers: str) -> int:
        return self.get(path, **headers).status_code


def invited(daemon: Daemon) -> tuple[str, str]:
    """Where, and the invitation."""
    answer = daemon.post("/admin/v1/web")
    assert answer.status_code == 201, answer.text
    parts = urlsplit(answer.json()["url"])
    return f"{parts.scheme}://{parts.netloc}", parts.fragment


@pytest.fixture
def owner(daemon: Daemon) -> Browser:
    url, invitation = invited(daemon)
    browser = Browser(url)
    assert browser.log_in(invitation=invitation).status_code == 201
    return browser


def tenants_browser(daemon: Daemon, name: str, number: int = 0) -> tuple[Browser, str]:
    """One in which a new tenant is logged in, and its key."""
    key = daemon.add_tenant(name, billing={"name": MARKUP})
    browser = Browser(urls(daemon)[number])
    assert browser.log_in(key=key).status_code == 201
    return browser, key


# -- administrators


def test_an_invitation_opens_the_page_once_on_a_port_that_serves_nothing_else(daemon: Daemon) -> None:
    url, invitation = invited(daemon)
    browser, late = Browser(url), Browser(url)
    assert Browser(urls(daemon)[0]).log_in(invitation=invitation).status_code == 403
    assert browser.get("session").json() == {"login": "invitation", "session": None}
    answer = browser.log_in(invitation=invitation)
    port = urlsplit(url).port
    assert re.fullmatch(
        rf"tenantd_{port}=[\w-]{{43}}; Path=/web/; HttpOnly; SameSite=Strict", answer.headers["set-cookie"]
    )
    assert answer.headers["cache-control"] == "no-store" and answer.json()["session"]["administers"]
    refused = late.log_in(invitation=invitation)
    assert refused.status_code == 401 and "run `tenantctl web` for a new one" in refused.text
    assert browser.get("data/admin/v1/status").json()["model"] == "fake"
    for path in ("/v1/models", "/admin/v1/status", "/metrics", "/healthz", "/openapi.json", "/"):
        headers = {PAGE_HEADER: browser.page, "authorization": "Bearer x"}
        assert browser.ask("GET", path, None, headers).status_code == 404, path
    key = daemon.add_tenant("elsewhere")
    assert late.log_in(key=key).status_code == 403


def test_the_cookie_alone_or_the_pages_secret_alone_is_nobodys(owner: Browser) -> None:
    path, page = "data/admin/v1/status", owner.page
    assert owner.status(path) == 200
    owner.page = ""
    assert owner.status(path) == 401 and owner.get("session").json()["session"] is None
    owner.page = page[:-1] + ("A" if page[-1] != "A" else "B")
    assert owner.status(path) == 401
    stranger = Browser(owner.url)
    stranger.page = page
    assert stranger.status(path) == 401
    owner.page = page
    assert owner.send("DELETE", "session").json()["session"] is None
    assert owner.status(path) == 401, "it is over"


def test_the_port_is_open_only_while_an_administrator_has_the_page_open(daemon: Daemon, owner: Browser) -> None:
    host, port = urlsplit(owner.url).hostname, urlsplit(owner.url).port

    def is_closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) != 0

    assert not is_closed()
    ended = tenantctl(daemon, "web", "--close", "--json")
    assert '"ended": ' in ended.stdout, ended.stderr
    wait_until(is_closed, "the port to be closed")
    assert tenantctl(daemon, "web", "--close").stderr == "no page was open\n"
    again = tenantctl(daemon, "web")
    assert again.returncode == 0 and re.fullmatch(r"http://127\.0\.0\.1:\d+/web/#[\w-]{43}\n", again.stdout)
    assert "open this address within 60 s" in again.stderr


def test_only_an_administrator_at_the_socket_opens_the_page_and_the_trail_says_who(daemon: Daemon) -> None:
    secret = daemon.post("/admin/v1/keys", {}).json()["secret"]
    key = {"authorization": f"Bearer {secret}"}
    answer = httpx.post(f"{urls(daemon)[0]}/admin/v1/web", headers=key, **PLAIN)
    assert answer.status_code == 403 and "only be opened over the daemon's socket" in answer.text
    tenants = {"authorization": f"Bearer {daemon.add_tenant('meek')}"}
    assert daemon.post("/admin/v1/web", headers=tenants).status_code == 403
    assert daemon.post("/admin/v1/web", headers=key).status_code == 201
    refused = tenantctl(daemon, "--url", urls(daemon)[0], "web", TENANTD_API_KEY=secret)
    assert refused.returncode == 2 and "only over the daemon's socket" in refused.stderr

    def opened() -> list[Any]:
        found = daemon.get("/admin/v1/audit?event=administered&limit=100").json()["entries"]
        return [entry["detail"]["by"] for entry in found if entry["detail"]["action"] == "page_opened"]

    assert wait_until(opened, "an entry in the audit trail")[-1]["uid"] is not None


# -- tenants


def test_a_tenant_logs_in_with_its_key_and_sees_only_itself(daemon: Daemon) -> None:
    browser, _ = tenants_browser(daemon, "acme")
    other, _ = tenants_browser(daemon, "globex")
    daemon.complete("acme", max_tokens=3)
    for_itself = ("v1/limits", "v1/queue", "v1/history", "v1/usage", "v1/usage/day", "v1/requests", "v1/invoices/this")
    for path in for_itself:
        answer = browser.get(f"data/{path}")
        assert answer.status_code == 200 and "globex" not in answer.text, path
        assert browser.status(f"data/{path}", **{"x-tenant": "globex"}) == 403
    assert browser.get("data/v1/invoices/this").json()["invoice"]["issuer"]["name"] == MARKUP
    assert other.get("data/v1/requests").json()["requests"] == []
    for path in ("status", "history", "stats", "requests", "usage/day", "invoices/this"):
        assert browser.status(f"data/admin/v1/{path}") == 403
    for path in ("data/v1/models", "data/admin/v1/keys", "data/metrics", "data/v1/completions", "index.html"):
        assert browser.status(path) == 404, "the page does not ask for it"
    assert browser.get("session").json()["session"]["tenant"] == "acme"


def test_a_session_ends_with_its_key_and_may_not_do_more(daemon: Daemon) -> None:
    browser, key = tenants_browser(daemon, "initech")
    running = daemon.stream("initech", max_tokens=100_000, ignore_eos=True).begun()
    reader = daemon.post("/admin/v1/tenants/initech/keys", {"scopes": ["read"]}).json()
    reading = Browser(browser.url)
    assert reading.log_in(key=reader["secret"]).status_code == 201
    cancel = f"data/v1/requests/{running.request_id}/cancel"
    assert reading.send("POST", cancel).status_code == 403
    other, _ = tenants_browser(daemon, "hooli")
    assert other.send("POST", cancel).status_code == 404
    assert browser.send("POST", cancel, origin="http://127.0.0.1:1").status_code == 403
    assert browser.send("POST", cancel).json() == {"cancelled": running.request_id}
    running.join()
    daemon.request("DELETE", f"/admin/v1/keys/{reader['key']['id']}").raise_for_status()
    assert reading.status("data/v1/limits") == 401 and browser.status("data/v1/limits") == 200
    wrong = Browser(browser.url).log_in(key=reader["secret"])
    assert wrong.status_code == 401 and "unknown, was revoked or has expired" in wrong.text
    assert wrong.text.replace(" ", "") == Browser(browser.url).log_in(key="td_x").text.replace(" ", "")
    assert Browser(browser.url).send("POST", "session", {"key": key, "invitation": "x"}).status_code == 400


def test_a_key_that_administers_sees_all_and_can_name_a_tenant(daemon: Daemon) -> None:
    daemon.add_tenant("vandelay")
    browser = Browser(urls(daemon)[0])
    browser.log_in(key=daemon.post("/admin/v1/keys", {}).json()["secret"])
    assert browser.status("data/admin/v1/status") == 200
    assert browser.get("data/v1/limits", **{"x-tenant": "vandelay"}).json()["tenant"] == "vandelay"


# -- where it is served, and to whom


def test_the_page_is_served_on_loopback_and_where_it_is_set(daemon: Daemon) -> None:
    loopback, everywhere, named, off = urls(daemon)
    assert httpx.get(f"{loopback}/web", **PLAIN).headers["location"] == HOME
    assert httpx.get(loopback + HOME, **PLAIN).status_code == 200
    for url in (everywhere.replace("0.0.0.0", "127.0.0.1"), off):
        for path in (HOME, f"{HOME}page.js", f"{HOME}session", f"{HOME}data/v1/limits"):
            assert httpx.get(url + path, **PLAIN).status_code == 404
    for path in (HOME, f"{HOME}session"):
        answer = daemon.get(path)
        assert answer.status_code == 404 and "run tenantctl web" in answer.text, "not on the socket"
    proxied = Browser(named, host=NAME)
    answer = proxied.log_in(key=daemon.add_tenant("proxied"))
    assert answer.status_code == 201 and answer.headers["set-cookie"].endswith("; SameSite=Strict; Secure")


def test_other_pages_and_other_names_get_nothing(daemon: Daemon, owner: Browser) -> None:
    path = "data/admin/v1/status"
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": owner.url.replace("127.0.0.1", "localhost")},
        {"origin": owner.url + "1"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
        {"host": "evil.example"},
        {"host": f"{NAME}:80"},
    ):
        answer = owner.get(path, **headers)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
        assert owner.status("", **headers) == 403
    assert owner.status("", **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}) == 200, "a link"
    assert owner.status(path, **{"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}) == 200
    asking = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert owner.ask("OPTIONS", f"{HOME}session", None, asking).status_code == 403


def test_every_file_is_sent_as_what_it_is_and_only_once(daemon: Daemon) -> None:
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()} == set(NAMES)
    url = urls(daemon)[0]
    for name in NAMES:
        answer = httpx.get(url + HOME + ("" if name == "index.html" else name), **PLAIN)
        assert answer.content == (FOLDER / name).read_bytes()
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = httpx.get(str(answer.url), headers={"if-none-match": answer.headers["etag"]}, **PLAIN)
        assert again.status_code == 304 and not again.content
    assert httpx.get(f"{url}{HOME}../pyproject.toml", **PLAIN).status_code == 404


def test_the_page_loads_nothing_of_others_and_makes_no_markup_of_texts() -> None:
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|https?://|javascript:", html)
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|https?://|srcdoc"
    for path in FOLDER.glob("*.js"):
        assert not re.search(banned, path.read_text()), path.name
        assert len(path.read_text().splitlines()) <= 420
