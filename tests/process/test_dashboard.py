"""The Grafana dashboard asks for nothing that the daemon does not export: names and labels, under load."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemon import Daemon, wait_until

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = json.loads((ROOT / "examples/grafana/tenantd.json").read_text())
FUNCTIONS = {"histogram_quantile", "increase", "rate"}
AGGREGATIONS = {"sum", "max", "avg"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
TOKEN = re.compile(r'\s*("[^"]*"|\[[^]]*\]|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9.]+|=~|!~|!=|[-+*/%(){},=])')
BUDGET = {"budgets": [{"period": "monthly", "unit": "tokens", "amount": 1_000_000}]}
Exported = dict[str, set[str]]
"""By the name of a sample, its labels."""


class Query:
    """What a PromQL expression names. Fails for what it does not understand."""

    def __init__(self, text: str) -> None:
        self.metrics: dict[str, set[str]] = {}  # with the labels they are selected by
        self.groups: set[str] = set()
        self._tokens = list(self._read(text))
        while self._tokens:
            self._take(self._tokens.pop(0))

    @staticmethod
    def _read(text: str) -> Iterator[str]:
        at = 0
        while at < len(text.rstrip()):
            found = TOKEN.match(text, at)
            assert found is not None, text[at:]
            at = found.end()
            yield found[1]

    def _take(self, token: str) -> None:
        if not re.match(r"[a-zA-Z_:]", token):
            return
        following = self._tokens[0] if self._tokens else ""
        if token in GROUPING:
            self.groups |= set(self._until("(", ")")[::2])
        elif token in AGGREGATIONS:
            assert following in ("(", *GROUPING), token
        elif following == "(":
            assert token in FUNCTIONS, token
        else:
            matchers = self._until("{", "}") if following == "{" else []
            self.metrics.setdefault(token, set()).update(matchers[::4])

    def _until(self, opening: str, closing: str) -> list[str]:
        assert self._tokens.pop(0) == opening
        inner: list[str] = []
        while (token := self._tokens.pop(0)) != closing:
            inner.append(token)
        return inner


def targets() -> list[tuple[str, str, str]]:
    """Title of the panel, expression and legend of each query."""
    return [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def exported(daemon: Daemon) -> Exported:
    found: Exported = defaultdict(set)
    for family in text_string_to_metric_families(daemon.get("/metrics").text):
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
    return found


def wrong(query: Query, legend: str, names: Exported) -> list[str]:
    """What a query or its legend names that is not there."""
    unknown = [name for name in query.metrics if name not in names]
    unknown += [f"{name}{{{each}}}" for name, used in query.metrics.items() for each in used - names.get(name, set())]
    labels = set().union(*(names.get(name, set()) for name in query.metrics))
    in_legend = set(re.findall(r"{{(\w+)}}", legend))
    return unknown + [each for each in query.groups | in_legend if each not in labels]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """It has served, refused, preempted, and is serving."""
    engine = {"slots": 1, "fake_step_micros": 1000}
    with Daemon(tmp_path_factory.mktemp("dashboard"), engine=engine) as daemon:
        for name in ("noisy", "quiet"):
            daemon.add_tenant(name)
        daemon.request("PATCH", "/admin/v1/tenants/noisy/budgets", json=BUDGET).raise_for_status()
        body: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}
        noisy = daemon.stream("noisy", **body).begun(50)
        assert daemon.complete("quiet", max_tokens=20, ignore_eos=True).status_code == 200
        assert daemon.complete("quiet", max_tokens=0).status_code == 400
        running = daemon.stream("quiet", **body).begun(2)
        yield daemon
        for stream in (noisy, running):
            assert stream.join().done


def test_every_query_names_what_a_daemon_under_load_exports(daemon: Daemon) -> None:
    wait_until(lambda: "tenantd_requests_total{" in daemon.get("/metrics").text, "an ended request")
    names = exported(daemon)
    found = {f"{title}: {text}": wrong(Query(text), legend, names) for title, text, legend in targets()}
    assert not {query: what for query, what in found.items() if what}
    assert len(found) > 20


def test_what_is_not_exported_would_be_found(daemon: Daemon) -> None:
    names = exported(daemon)
    for text, legend, missing in (
        ("sum by (tenant) (rate(tenantd_no_such_total[5m]))", "", "tenantd_no_such_total"),
        ('tenantd_waiting{tennant=~"$tenant"}', "", "tenantd_waiting{tennant}"),
        ("sum by (caus) (rate(tenantd_refusals_total[5m]))", "", "caus"),
        ("tenantd_waiting / ignoring (tenant, x) tenantd_ready", "", "x"),
        ("tenantd_waiting", "{{model}}", "model"),
    ):
        assert missing in wrong(Query(text), legend, names), text
    with pytest.raises(AssertionError):
        Query("no_such_function(tenantd_waiting)")


def test_it_can_be_imported_anywhere(daemon: Daemon) -> None:
    """It names no data source but its variable, ids are unique, panels do not overlap, tenants come from the daemon."""
    panels = DASHBOARD["panels"]
    sources = [each["datasource"]["uid"] for panel in panels for each in (panel, *panel["targets"])]
    assert set(sources) == {"${datasource}"} and "__inputs" not in DASHBOARD
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    source, tenants = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], tenants["name"]) == ("datasource", "datasource", "tenant")
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", tenants["query"]["query"])
    assert asked is not None and asked[2] in exported(daemon)[asked[1]]
