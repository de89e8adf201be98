"""The keys for hashes in the audit trail: one for each tenant, shown to nobody, and gone when they are forgotten."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from tenantd.domain import Tenant
from tenantd.errors import InvalidRequest, NotFound
from tenantd.tenancy.audit_keys import audit_key, audit_keys, forget_key
from tenantd.tenancy.directory import Directory
from tenantd.tenancy.tenants import add_tenant, get_tenant, remove_tenant, update_tenant
from tests.ledger.books import ledger_in, memory_ledger


def test_each_tenant_has_a_key_of_its_own_and_none_is_shown_with_it() -> None:
    conn = memory_ledger()
    for name in ("acme", "globex"):
        add_tenant(conn, Tenant(name=name))
    keys = audit_keys(conn)
    assert keys.keys() == {1, 2} and len(set(keys.values())) == 2 and {len(key) for key in keys.values()} == {32}
    shown = msgspec.json.encode(get_tenant(conn, "acme"))
    assert keys[1] not in shown and keys[1].hex().encode() not in shown and b"audit_key" not in shown


def test_who_is_forgotten_has_another_key_or_none() -> None:
    conn = memory_ledger()
    for name in ("acme", "globex"):
        add_tenant(conn, Tenant(name=name))
    before = audit_keys(conn)
    forgotten = forget_key(conn, "acme")
    assert (forgotten.id, forgotten.had_key, forgotten.is_removed) == (1, True, False)
    assert audit_keys(conn)[1] != before[1] and audit_keys(conn)[2] == before[2]
    remove_tenant(conn, "globex")
    assert audit_key(conn, 2) == before[2] and 2 not in audit_keys(conn)
    assert forget_key(conn, "globex").is_removed and audit_key(conn, 2) is None
    assert not forget_key(conn, "globex").had_key


def test_of_several_tenants_of_a_name_the_one_that_has_it_is_meant_or_that_with_the_id() -> None:
    conn = memory_ledger()
    for _ in range(2):
        add_tenant(conn, Tenant(name="acme"))
        remove_tenant(conn, "acme")
    add_tenant(conn, Tenant(name="acme"))
    add_tenant(conn, Tenant(name="globex"))
    with pytest.raises(InvalidRequest, match="newest first: id 3, 2, 1"):
        forget_key(conn, "acme")
    assert (forget_key(conn, "acme", 3).id, forget_key(conn, "acme", 1).id) == (3, 1)
    assert audit_key(conn, 1) is None and audit_key(conn, 2) is not None
    for wrong in (4, 5, 0, -1, 2**70):
        with pytest.raises(NotFound):
            forget_key(conn, "acme", wrong)
    with pytest.raises(NotFound):
        forget_key(conn, "nobody")


def test_a_directory_knows_the_keys_of_its_tenants_and_the_hashes_of_their_system_prompts(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            acme = await ledger.write(lambda conn: add_tenant(conn, Tenant(name="acme", system_prompt="Be brief.")))
            globex = await ledger.write(lambda conn: add_tenant(conn, Tenant(name="globex")))
            directory = Directory()
            await directory.reload(ledger)
            keys = await ledger.read(audit_keys)
            assert (directory.audit_key(acme.id), directory.audit_key(globex.id)) == (keys[1], keys[2])
            assert directory.audit_key(None) is directory.audit_key(99) is directory.system_prompt_hmac(globex) is None
            now = directory.system_prompt_hmac(acme)
            changed = await ledger.write(lambda conn: update_tenant(conn, "acme", system_prompt="Be long."))
            await directory.reload(ledger)
            assert directory.system_prompt_hmac(acme) == now != directory.system_prompt_hmac(changed)

    asyncio.run(main())


def test_nothing_is_left_of_forgotten_keys_in_the_files_however_rows_have_moved(tmp_path: Path) -> None:
    lengths = random.Random(7)

    async def main() -> list[bytes]:
        async with ledger_in(tmp_path) as ledger:
            for i in range(150):
                text = "x" * lengths.randrange(900)
                await ledger.write(
                    lambda conn, i=i, text=text: add_tenant(conn, Tenant(name=f"t{i}", system_prompt=text))
                )
            for i in range(150):
                text = "y" * lengths.randrange(3000)
                await ledger.write(lambda conn, i=i, text=text: update_tenant(conn, f"t{i}", system_prompt=text))
            keys = await ledger.read(audit_keys)
            for i in range(0, 150, 2):
                await ledger.write(lambda conn, i=i: forget_key(conn, f"t{i}"))
            return [keys[i + 1] for i in range(0, 150, 2)]

    forgotten = asyncio.run(main())
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert len(forgotten) == 75 and not [key for key in forgotten if key in raw]
