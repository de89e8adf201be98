"""Lines of the daemon: who asks, what may be said, who is answered, what is recorded."""

from __future__ import annotations

from typing import Final

from tests.mutations.runner import Mutation

IDENTITY: Final = [
    Mutation(
        "identity",
        "keys are stored as they are",
        "tenantd/tenancy/keys.py",
        "    return hashlib.sha256(secret.encode()).hexdigest()\n",
        "    return secret\n",
        "tests/tenancy/test_keys.py::test_a_secret_is_shown_once_and_stored_as_its_hash",
    ),
    Mutation(
        "identity",
        "a key acts for any tenant that its request names",
        "tenantd/api/identity.py",
        "            if tenant.name == named:\n",
        "            if named:\n",
        "tests/api/test_identity.py::test_a_user_of_several_tenants_chooses_among_them_and_no_others",
    ),
    Mutation(
        "identity",
        "any user names any tenant, as administrators do",
        "tenantd/api/identity.py",
        "    if is_admin(request) and named:\n",
        "    if named:\n",
        "tests/api/test_identity.py::test_a_stranger_without_a_key_gets_nothing",
    ),
    Mutation(
        "identity",
        "a user without a tenant sees what is for tenants",
        "tenantd/api/identity.py",
        "        if peer is None or not directory.by_uid(peer.uid):\n",
        "        if peer is None:\n",
        "tests/api/test_identity.py::test_a_stranger_without_a_key_gets_nothing",
    ),
    Mutation(
        "identity",
        "who shows a wrong key is shown what administrators see",
        "tenantd/api/identity.py",
        "connection_of(request.scope).administers and not _has_key(request)\n",
        "connection_of(request.scope).administers\n",
        "tests/api/test_identity.py::test_a_wrong_key_of_the_daemons_own_user_is_not_shown_what_administrators_see",
    ),
    Mutation(
        "identity",
        "a revoked key is live again after a restart",
        "tenantd/tenancy/keys.py",
        "WHERE revoked_micros IS NULL AND (expires_micros",
        "WHERE (expires_micros",
        "tests/tenancy/test_keys.py::test_a_key_is_revoked_once",
    ),
    Mutation(
        "identity",
        "a reading that began before a revocation brings the key back",
        "tenantd/tenancy/directory.py",
        "        self._revoked.add(key_id)\n",
        "",
        "tests/tenancy/test_directory.py::test_a_revoked_key_is_gone_at_once_and_no_older_reading_brings_it_back",
    ),
]

SCOPES: Final = [
    Mutation(
        "scopes",
        "a tenant's key may have the scope admin",
        "tenantd/tenancy/keys.py",
        "    if Scope.ADMIN in asked:\n",
        "    if Scope.ADMIN in asked and tenant is None:\n",
        "tests/tenancy/test_key_rights.py::test_a_key_that_cannot_be_is_not_made",
    ),
    Mutation(
        "scopes",
        "a key may do what its scopes do not allow",
        "tenantd/api/identity.py",
        "Scope.ADMIN not in key.scopes and key.scopes.isdisjoint(scopes):\n",
        "not key.scopes:\n",
        "tests/api/test_scopes.py::test_a_key_may_do_what_its_scopes_say_and_learns_which_it_lacks",
    ),
    Mutation(
        "scopes",
        "a page in a browser administers",
        "tenantd/api/origins.py",
        '    if "origin" in request.headers:\n',
        '    if "origin" in ():\n',
        "tests/attacks/test_identity.py::test_a_page_in_a_browser_does_not_administer",
    ),
    Mutation(
        "scopes",
        "a key that administers acts for the tenant of whoever connects",
        "tenantd/api/identity.py",
        "    if key is not None:\n        raise InvalidRequest(",
        "    if key is None:\n        raise InvalidRequest(",
        "tests/api/test_scopes.py::test_a_user_whom_a_tenant_lists_is_not_who_asks_with_a_key_that_administers",
    ),
    Mutation(
        "scopes",
        "any key administers",
        "tenantd/api/identity.py",
        "        return Scope.ADMIN in key.scopes\n",
        "        return bool(key.scopes)\n",
        "tests/api/test_identity.py::test_only_administrators_administer_and_a_key_does_not_help[/admin]",
    ),
    Mutation(
        "scopes",
        "a key is live after its end",
        "tenantd/tenancy/directory.py",
        "        if found is None or self._ends.has_come(found.id):\n",
        "        if found is None:\n",
        "tests/tenancy/test_key_ends.py::test_the_directory_knows_no_key_whose_end_has_come",
    ),
    Mutation(
        "scopes",
        "what runs with a key goes on after its end",
        "tenantd/tenancy/directory.py",
        "        return key_id in self._digests and not self._ends.has_come(key_id)\n",
        "        return key_id in self._digests\n",
        "tests/tenancy/test_key_ends.py::test_the_directory_knows_no_key_whose_end_has_come",
    ),
]

SYSTEM_PROMPT: Final = [
    Mutation(
        "system prompt",
        "a chat is answered although its template shows no system prompt",
        "tenantd/text/rendering.py",
        "            if lead in text:\n",
        "            if text:\n",
        "tests/text/test_system_prompts.py::test_a_template_that_shows_no_message_cannot_answer",
    ),
    Mutation(
        "system prompt",
        "a plain prompt goes without it",
        "tenantd/text/chat.py",
        "start = self.lead(system_prompt) if system_prompt else None if add_bos else ()\n",
        "start = None if add_bos else ()\n",
        "tests/api/openai/test_system_prompts.py::test_it_goes_before_chats_and_only_on_demand_before_prompts",
    ),
    Mutation(
        "system prompt",
        "its text is in the audit trail",
        "tenantd/tenancy/recorded.py",
        '        del shown["system_prompt"]\n',
        "",
        "tests/process/test_audit_trail.py::test_a_system_prompt_is_recorded_as_a_hash_wherever_it_is_used_or_changed",
    ),
]

GUARD: Final = [
    Mutation(
        "guard",
        "a message may spell turn marks",
        "tenantd/text/guard.py",
        "        forbidden = self._guard.control_ids | self._guard.mark_ids\n",
        "        forbidden = self._guard.control_ids\n",
        "tests/text/test_chat.py::test_special_tokens_spelled_in_a_message_are_text[tiny_without_space-user]",
    ),
    Mutation(
        "guard",
        "what a message must not become is not looked for in its tokens",
        "tenantd/text/guard.py",
        "        if forbidden.isdisjoint(ids):\n",
        "        if ids:\n",
        "tests/text/test_chat.py::test_special_tokens_spelled_in_a_message_are_text[tiny-user]",
    ),
    Mutation(
        "guard",
        "a plain prompt may spell turn marks",
        "tenantd/text/chat.py",
        "        add = tokens.add_template if parse_special else tokens.add_message\n",
        "        add = tokens.add_template\n",
        "tests/text/test_chat.py::test_a_plain_prompt_becomes_no_turn_mark_and_keeps_other_user_defined_tokens",
    ),
    Mutation(
        "guard",
        "any tenant may spell special tokens in plain prompts",
        "tenantd/api/openai/routes.py",
        "    if not tenant.allow_special:\n",
        "    if False:\n",
        "tests/api/admin/test_routes.py::test_only_a_tenant_that_was_allowed_to_may_spell_special_tokens_and_no_chat",
    ),
]

RETURN_PATH: Final = [
    Mutation(
        "return path",
        "tokens with another binding are booked",
        "tenantd/fleet/bindings.py",
        "            if stream is not None and stream.binding != progress.binding:\n",
        "            if stream is not None and stream.binding is None:\n",
        "tests/serving/test_mixed_up.py::test_an_engine_that_mixes_up_requests_is_replaced_and_nothing_foreign_is_delivered",
    ),
    Mutation(
        "return path",
        "an end with another binding ends a request",
        "tenantd/fleet/bindings.py",
        "            if stream is not None and stream.binding != finish.binding:\n",
        "            if stream is not None and finish.binding == -1:\n",
        "tests/serving/test_mixed_up.py::test_an_engine_that_mixes_up_requests_is_replaced_and_nothing_foreign_is_delivered",
    ),
    Mutation(
        "return path",
        "an answer is written to whoever is connected",
        "tenantd/api/openai/recipient.py",
        "        if stream.asker != self._asker:\n",
        "        if stream.asker is None:\n",
        "tests/api/openai/test_recipients.py::test_a_whole_answer_that_is_somebody_elses_is_an_error",
    ),
    Mutation(
        "return path",
        "a stream is not checked before each write",
        "tenantd/api/openai/streaming.py",
        "        self._recipient.check(stream)\n",
        "",
        "tests/api/openai/test_recipients.py::test_a_stream_that_is_somebody_elses_ends_with_an_error_and_without_a_foreign_byte",
    ),
    Mutation(
        "return path",
        "errors for tenants have paths of this machine",
        "tenantd/api/identity.py",
        "    shown.message = without_paths(error.message)\n",
        "",
        "tests/api/test_identity.py::test_only_administrators_see_paths_in_errors",
    ),
    Mutation(
        "return path",
        "an answer is handed out before its row is on disk",
        "tenantd/live/streams.py",
        "        return bool(self.is_durable and self._deltas) and ",
        "        return bool(self._deltas) and ",
        "tests/live/test_streams.py::test_nothing_is_handed_out_before_the_row_is_durable",
    ),
    Mutation(
        "return path",
        "what was decided about a request is overruled by the engine",
        "tenantd/live/streams.py",
        "        if self._decision is not None:\n",
        "        if self._decision is None:\n",
        "tests/live/test_streams.py::test_what_was_decided_stands_whatever_the_engine_says",
    ),
    Mutation(
        "return path",
        "a kept answer is given to whichever tenant sends its idempotency key",
        "tenantd/serving/attempts.py",
        "        name = _id(tenant), key\n",
        "        name = 0, key\n",
        "tests/process/test_idempotency.py::test_a_key_is_its_tenants_own_and_stands_for_one_body_on_one_route",
    ),
]

SETTLEMENT: Final = [
    Mutation(
        "settlement",
        "a row is settled twice",
        "tenantd/ledger/requests.py",
        "    if state != RUNNING:\n",
        "    if state is None:\n",
        "tests/ledger/test_requests.py::test_a_second_settlement_is_a_conflict_and_changes_nothing",
    ),
    Mutation(
        "settlement",
        "a late checkpoint changes a bill",
        "tenantd/ledger/requests.py",
        "WHERE id = ? AND state = 'running'\"\n_FACTS",
        'WHERE id = ?"\n_FACTS',
        "tests/ledger/test_requests.py::test_a_checkpoint_never_touches_a_settled_row",
    ),
    Mutation(
        "settlement",
        "a settlement is dropped when the disk is full",
        "tenantd/ledger/writer.py",
        "            self._jobs = deque(job for job in every if job.is_kept)\n",
        "            self._jobs = deque()\n",
        "tests/ledger/test_trouble.py::test_settlements_wait_new_requests_are_refused_and_all_lands_when_it_has_passed",
    ),
]

AUDIT: Final = [
    Mutation(
        "audit",
        "entries are not chained to those before them",
        "tenantd/ledger/audit.py",
        "    return sha256(last + encode_row(row)).digest()\n",
        "    return sha256(encode_row(row)).digest()\n",
        "tests/ledger/test_audit.py::test_a_stranger_can_recompute_the_chain_from_the_columns",
    ),
    Mutation(
        "audit",
        "an edited entry is not noticed",
        "tenantd/ledger/verify.py",
        "or made != row[7] or",
        "or",
        "tests/ledger/test_verify.py::test_an_edited_hash_is_found",
    ),
    Mutation(
        "audit",
        "an entry that was added behind the head is not noticed",
        "tenantd/ledger/verify.py",
        " or number >= head_number:\n",
        ":\n",
        "tests/ledger/test_verify.py::test_an_entry_after_the_head_is_found",
    ),
    Mutation(
        "audit",
        "entries that were deleted at the end are not noticed",
        "tenantd/ledger/verify.py",
        "        if number < head.number:\n",
        "        if number < 0:\n",
        "tests/ledger/test_verify.py::test_entries_deleted_at_the_end_are_found",
    ),
    Mutation(
        "audit",
        "refusals are forgotten while nothing can be written",
        "tenantd/watching/recorder.py",
        "        if self._refusals and (is_last or self._ledger.healthy):\n",
        "        if self._refusals:\n",
        "tests/watching/test_recorder.py::test_refusals_wait_while_nothing_can_be_written_and_none_is_forgotten",
    ),
]
