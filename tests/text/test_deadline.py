"""A grammar has some CPU time, not some time of the clock, to be compiled in."""

from __future__ import annotations

import asyncio
import os
import signal

from tenantd.text.grammar import GrammarCompiler
from tests.text.test_grammar import accepts, outcome, run


def test_time_that_the_machine_has_for_others_does_not_count() -> None:
    async def work(compiler: GrammarCompiler) -> str:
        await outcome(compiler, 'root ::= "a"')
        assert compiler._worker.process is not None
        compiler._deadline_s, pid = 1.0, compiler._worker.process.pid
        os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(1.5, os.kill, pid, signal.SIGCONT)
        return await outcome(compiler, 'root ::= "b"')

    assert accepts(run(work), "b")


def test_nobody_waits_for_ever_for_a_compiler_that_does_nothing() -> None:
    async def work(compiler: GrammarCompiler) -> tuple[str, str]:
        await outcome(compiler, 'root ::= "a"')
        assert compiler._worker.process is not None
        compiler._deadline_s = 0.05
        os.kill(compiler._worker.process.pid, signal.SIGSTOP)
        slow = await outcome(compiler, 'root ::= "b"')
        compiler._deadline_s = 5
        return slow, await outcome(compiler, 'root ::= "c"')

    slow, next_one = run(work)
    assert "took longer than 0.05 s" in slow and accepts(next_one, "c")
