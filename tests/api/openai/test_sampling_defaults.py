"""What a request that says nothing of samplers gets, and where it is written down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tenantd.config import SamplingConfig
from tenantd.domain import Priority, Sampling
from tenantd.samplers import SAMPLERS
from tests.api.conftest import Api, serve

ROOT = Path(__file__).parents[3]
KEY = {"authorization": "Bearer td_acme"}


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Api]:
    yield from serve(tmp_path, {"sampling": {"top_k": 0, "top_p": 1, "min_p": 0.0, "temperature": 0.5}})


def asked(api: Api, **body: Any) -> Sampling:
    assert api.completion(prompt="Hi", **body).status_code == 200
    return api.service.generations[-1].sampling


def test_without_a_configuration_the_defaults_are_those_declared(api: Api) -> None:
    sampling = asked(api)
    for name, one in SAMPLERS.items():
        assert getattr(sampling, name) == one.default == getattr(SamplingConfig(), name)
    assert sampling == Sampling(), "nothing else is set"


def test_the_configuration_sets_them_and_a_request_overrides_it(plain: Api) -> None:
    sampling = asked(plain)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 0, 1, 0)
    sampling = asked(plain, temperature=0, top_k=7, min_p=0.2)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0, 7, 1, 0.2)
    assert asked(plain, top_k=-1).top_k == 0, "-1 means the default"


def test_the_description_and_the_document_tell_them(api: Api) -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    properties = api.client.get("/openapi.json").json()["components"]["schemas"]["CompletionRequest"]["properties"]
    for name, one in SAMPLERS.items():
        assert f"`sampling.{name}`: {one.default:g} |" in text
        assert properties[name]["description"] == (
            f"{one.help} Default: that of the server's configuration, {one.default:g} unless it is set there."
        )


def test_an_answer_tells_the_class_of_its_tenant_if_it_was_asked_for_one(api: Api) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "service_tier": "auto"}
    for priority, tier in ((Priority.HIGH, "priority"), (Priority.STANDARD, "default"), (Priority.LOW, "flex")):
        acme = api.service.directory.tenants["acme"]
        api.service.directory.tenants["acme"] = msgspec.structs.replace(acme, priority=priority)
        assert api.chat(**body).json()["service_tier"] == tier
        assert f'"service_tier":"{tier}"' in api.chat(**body, stream=True).text.splitlines()[0]
        assert api.completion(prompt="Hi", service_tier="priority").json()["service_tier"] == tier
        assert api.completion(prompt="Hi", service_tier="flex").json()["service_tier"] == "flex"
        assert api.service.generations[-1].is_flex, "whatever the class of the tenant"
        said = api.client.post("/v1/responses", json={"input": "Hi", "service_tier": "flex"}, headers=KEY)
        assert said.json()["service_tier"] == "flex" and api.service.generations[-1].is_flex
        hi = {"messages": body["messages"], "max_tokens": 4, "service_tier": "standard_only"}
        used = api.client.post("/v1/messages", json=hi, headers=KEY).json()["usage"]
        assert used["service_tier"] == {"priority": "priority", "default": "standard", "flex": "batch"}[tier]
    assert "service_tier" not in api.completion(prompt="Hi").json()
    assert not api.service.generations[-1].is_flex
    assert api.completion(prompt="Hi", service_tier="fast").json()["error"]["param"] == "service_tier"
