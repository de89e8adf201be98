"""Ledgers of earlier schemas, from which every later migration is tested.

`schema_N.sql` is a dump of a ledger, `unsettled_N.jsonl` what its daemon had set aside, `said_N.json` what reports and
invoices said of it. All three were written by the program of that schema with `python -m tests.ledger.old.make`.
`first.sql` has the tables of schema 1.
"""
