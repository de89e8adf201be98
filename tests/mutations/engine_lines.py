"""Lines of the engine: whose each sequence is, and what is left of it."""

from __future__ import annotations

from typing import Final

from tests.mutations.runner import Mutation

SLOTS: Final = [
    Mutation(
        "slots",
        "a sequence is released by whoever asks",
        "tenantd/engine/kv/slots.py",
        "        if (owner := self.owners[sequence]) != request:\n",
        "        if (owner := self.owners[sequence]) is None:\n",
        "tests/engine/kv/test_slots.py::test_a_sequence_is_released_only_by_its_own_request",
    ),
    Mutation(
        "slots",
        "a request in prefill is moved onto a bound sequence",
        "tenantd/engine/kv/slots.py",
        "            if self._is_empty(sequence):\n                return sequence\n",
        "            if not self._is_empty(sequence):\n                return sequence\n",
        "tests/engine/kv/test_slots.py::test_compaction_loses_nobody_and_packs_whenever_a_sequence_is_free",
    ),
    Mutation(
        "slots",
        "the state of a swapped-out request is given to another",
        "tenantd/engine/kv/states.py",
        "        if (state := self._kept.pop(request, None)) is not None:\n",
        "        if (state := self._kept.popitem()[1] if self._kept else None) is not None:\n",
        "tests/engine/kv/test_states.py::test_what_goes_back_or_ends_gives_its_bytes_back",
    ),
    Mutation(
        "slots",
        "the sequence of a request that has ended is not cleared",
        "tenantd/engine/scheduler.py",
        "            self._released.append((job.sequence, job))\n",
        "",
        "tests/engine/test_scheduling.py::test_a_request_that_ends_while_it_is_swapped_out_leaves_nothing_behind",
    ),
    Mutation(
        "slots",
        "a swapped-out request that has ended leaves its state",
        "tenantd/engine/scheduler.py",
        "        if (state := self.states.take(job.submit.request)) is not None:\n",
        "        if (state := None) is not None:\n",
        "tests/engine/test_scheduling.py::test_a_request_that_ends_while_it_is_swapped_out_leaves_nothing_behind",
    ),
    Mutation(
        "slots",
        "clearing a sequence leaves its cells",
        "tenantd/engine/llama/cells.py",
        "_seq_rm(self._memory, sequence, -1, -1)\n        if held and self._spare",
        "_seq_pos_max(self._memory, sequence)\n        if held and self._spare",
        "tests/contract/test_compute.py::test_a_cleared_sequence_holds_nothing_and_can_be_bound_again",
    ),
    Mutation(
        "slots",
        "what a request held that was garbled stays for the next one",
        "tenantd/engine/llama/sequences.py",
        "is_garbled=was_garbled)\n",
        "is_garbled=False)\n",
        "tests/engine/llama/test_garbled.py::test_whoever_comes_next_gets_what_it_gets_on_a_new_engine",
    ),
    Mutation(
        "slots",
        "a request ends because of NaN that another left",
        "tenantd/engine/loop.py",
        "sampled is None or not sampled.is_garbled or chunk.texts",
        "True",
        "tests/engine/llama/test_garbled.py::"
        "test_what_a_request_leaves_that_was_not_seen_to_be_garbled_garbles_nobody[off-streams-cancelled]",
    ),
    Mutation(
        "slots",
        "every token is computed in the first sequence",
        "tenantd/engine/llama/batch.py",
        "            sequences += [chunk.sequence] * count\n",
        "            sequences += [0] * count\n",
        "tests/contract/test_compute.py::test_a_pass_answers_exactly_the_chunks_that_ask_for_a_token",
    ),
    Mutation(
        "slots",
        "a pass computes everybody with one tenant's adapter",
        "tenantd/engine/llama/decode.py",
        "            self._adapters.put_in_force(version)\n",
        "            self._adapters.put_in_force(version or self._adapters._in_force)\n",
        "tests/contract/test_compute.py::test_an_adapter_changes_what_its_own_requests_get_and_nothing_else",
    ),
    Mutation(
        "slots",
        "a moved request leaves its adapter behind",
        "tenantd/engine/llama/sequences.py",
        "        self._versions[target], self._versions[source] = self._versions[source], None\n",
        "",
        "tests/contract/test_compute.py::test_an_adapter_goes_along_when_its_request_is_moved_or_gives_way",
    ),
    Mutation(
        "slots",
        "a request is drawn with another's seed",
        "tenantd/engine/loop.py",
        "msgspec.structs.replace(self._samplings[command.sampling], seed=command.seed)",
        "self._samplings[command.sampling]",
        "tests/isolation/test_interleavings.py::test_no_answer_has_anything_of_another_request",
    ),
]

BINDING: Final = [
    Mutation(
        "binding",
        "a state that is kept is another request's",
        "tenantd/engine/kv/states.py",
        "    if state.request != request:\n",
        "    if state.request < 0:\n",
        "tests/engine/kv/test_states.py::test_a_state_of_another_request_is_neither_kept_nor_given_back",
    ),
    Mutation(
        "binding",
        "a request computes in the sequence of another",
        "tenantd/engine/scheduler.py",
        "                owners[sequence] != request\n",
        "                owners[sequence] is None\n",
        "tests/engine/test_bindings.py::test_a_plan_that_mixes_up_requests_is_not_run",
    ),
    Mutation(
        "binding",
        "a request computes the tokens of another",
        "tenantd/engine/scheduler.py",
        "                or job.tokens[position] != tokens[0]\n",
        "",
        "tests/engine/test_bindings.py::test_a_plan_that_mixes_up_requests_is_not_run",
    ),
    Mutation(
        "binding",
        "the engine runs what is not planned for the request that holds the sequence",
        "tenantd/engine/llama/sequences.py",
        "        if self._requests[sequence] != request:\n",
        "        if self._requests[sequence] is None:\n",
        "tests/contract/test_compute.py::test_a_sequence_computes_for_its_own_request_only",
    ),
    Mutation(
        "binding",
        "the engine restores the state of another request",
        "tenantd/engine/llama/sequences.py",
        "        if swapped.request != request:\n",
        "        if swapped.request < 0:\n",
        "tests/contract/test_compute.py::test_a_state_goes_back_to_its_own_request_only",
    ),
    Mutation(
        "binding",
        "what was computed for another request is booked",
        "tenantd/engine/scheduler.py",
        "            if job.submit.request != request:\n",
        "            if job.submit.request < 0:\n",
        "tests/engine/test_bindings.py::test_what_was_computed_for_another_request_is_not_booked",
    ),
    Mutation(
        "binding",
        "a plan is not checked before it is run",
        "tenantd/engine/loop.py",
        "        self._scheduler.check_plan(plan)\n",
        "",
        "tests/engine/test_bindings.py::test_a_plan_that_mixes_up_requests_is_not_run",
    ),
]

SCRUB: Final = [
    Mutation(
        "scrub",
        "with KV streams, what a request leaves is not overwritten",
        "tenantd/engine/llama/cells.py",
        "            llama_cpp.llama_memory_seq_cp(self._memory, self._spare, sequence, -1, -1)\n",
        "",
        "tests/engine/llama/test_scrub.py::test_what_a_sequence_held_is_overwritten_while_others_run_on",
    ),
    Mutation(
        "scrub",
        "with one pool, what a request leaves is not overwritten",
        "tenantd/engine/llama/cells.py",
        "            self._is_dirty = True\n",
        "            self._is_dirty = False\n",
        "tests/engine/llama/test_scrub.py::test_what_a_sequence_held_is_overwritten_while_others_run_on",
    ),
    Mutation(
        "scrub",
        "state in host memory is not overwritten",
        "tenantd/engine/llama/locked.py",
        "        ctypes.memset(self.address, 0, self.size_bytes)\n",
        "",
        "tests/engine/llama/test_scrub.py::test_a_kept_state_is_overwritten_when_it_is_used_or_dropped",
    ),
    Mutation(
        "scrub",
        "with KV streams, what a moved request leaves behind is not overwritten",
        "tenantd/engine/llama/cells.py",
        "                llama_cpp.llama_memory_seq_cp(self._memory, self._spare, source, -1, -1)\n",
        "                pass\n",
        "tests/engine/llama/test_scrub.py::test_what_a_sequence_held_is_overwritten_while_others_run_on",
    ),
]

SYSTEM_PROMPT: Final = [
    Mutation(
        "system prompt",
        "penalties for repetition count its tokens",
        "tenantd/engine/reuse.py",
        "        visible = submit.prompt[submit.hidden_tokens :]",
        "        visible = submit.prompt[:]",
        "tests/engine/test_hidden_tokens.py::test_only_what_stands_after_the_system_prompt_is_history",
    ),
]
