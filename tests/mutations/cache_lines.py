"""Lines of the cache: whose a prefix is, which tokens it has, and what of it is billed."""

from __future__ import annotations

from typing import Final

from tests.mutations.runner import Mutation

CACHE: Final = [
    Mutation(
        "cache",
        "all tenants with a cache are one owner",
        "tenantd/serving/policies.py",
        "cache=(tenant.id or 0) if tenant.is_cached else 0,\n",
        "cache=1 if tenant.is_cached else 0,\n",
        "tests/tenancy/test_directory.py::test_who_has_a_cache_is_its_own_setting_or_that_of_all_which_changes_at_once",
    ),
    Mutation(
        "cache",
        "a tenant without a cache has one",
        "tenantd/serving/policies.py",
        "cache=(tenant.id or 0) if tenant.is_cached else 0,\n",
        "cache=tenant.id or 0,\n",
        "tests/tenancy/test_directory.py::test_who_has_a_cache_is_its_own_setting_or_that_of_all_which_changes_at_once",
    ),
    Mutation(
        "cache",
        "a tenant that takes a name finds what the last one left",
        "tenantd/engine/cache.py",
        "        if self.owner(policy.tenant) != policy.cache:\n",
        "        if not policy.cache:\n",
        "tests/engine/test_cache.py::test_a_tenant_made_again_finds_nothing_and_one_switched_off_leaves_nothing",
    ),
    Mutation(
        "cache",
        "calls of any tenants without a cache share their prompts",
        "tenantd/engine/reuse.py",
        "return Key(owner, 0 if owner else submit.group, submit.adapter, version, submit.hidden_tokens)\n",
        "return Key(owner, 0, submit.adapter, version, submit.hidden_tokens)\n",
        "tests/engine/test_cache.py::test_the_choices_of_a_call_share_their_prompt_without_a_cache",
    ),
    Mutation(
        "cache",
        "a prompt that spells a system prompt finds it",
        "tenantd/engine/reuse.py",
        "return Key(owner, 0 if owner else submit.group, submit.adapter, version, submit.hidden_tokens)\n",
        "return Key(owner, 0 if owner else submit.group, submit.adapter, version)\n",
        "tests/engine/test_cache.py::test_a_prompt_that_spells_a_system_prompt_does_not_find_it",
    ),
    Mutation(
        "cache",
        "a request follows one with another key",
        "tenantd/engine/following.py",
        "        if other is job or other.key != job.key or other.leader is not None:\n",
        "        if other is job or other.leader is not None:\n",
        "tests/engine/test_cache.py::test_the_choices_of_a_call_share_their_prompt_without_a_cache",
    ),
    Mutation(
        "cache",
        "what was computed with another adapter is used",
        "tenantd/engine/llama/decode.py",
        '        if (version.path if version else "") != adapter:\n',
        "        if False:\n",
        "tests/contract/test_prefixes.py::test_a_prefix_belongs_to_the_adapter_that_it_was_computed_with",
    ),
    Mutation(
        "cache",
        "a token that differs is taken for the same",
        "tenantd/engine/kv/prefixes.py",
        "    while same < end and ours[same] == theirs[same]:\n",
        "    while same < end:\n",
        "tests/engine/test_cache.py::test_what_differs_in_one_token_is_not_used_beyond_it",
    ),
    Mutation(
        "cache",
        "what was forgotten is found until it is overwritten",
        "tenantd/engine/cache.py",
        "            self._withdraw(lambda key: key.owner == owner)\n",
        "            self._forgotten.update((one.number, one) for one in self._prefixes if one.owner == owner)\n",
        "tests/engine/test_forgetting.py::test_what_is_forgotten_is_not_found_and_leaves_a_little_in_each_step",
    ),
    Mutation(
        "cache",
        "what others keep within their share is pushed out",
        "tenantd/engine/cache.py",
        "            if oldest is not None and self._shares.is_over(one, size_bytes if one == owner else 0):\n",
        "            if oldest is not None:\n",
        "tests/engine/test_cache.py::test_bytes_stay_within_the_budget_and_each_has_its_share",
    ),
    Mutation(
        "cache",
        "a prefix is bound by a number that is not its own",
        "tenantd/engine/llama/sequences.py",
        '        self._check_owner(sequence, Owner("prefix", prefix))\n        if self._cells.cut',
        "        if self._cells.cut",
        "tests/contract/test_prefixes.py::test_a_prefix_is_used_by_its_own_number_only",
    ),
    Mutation(
        "cache",
        "cached tokens are not billed",
        "tenantd/live/streams.py",
        "        self.cached_tokens += progress.cached\n",
        "",
        "tests/live/test_streams.py::test_cached_tokens_are_billed_once_apart_from_computed_ones_also_over_crashes",
    ),
]
