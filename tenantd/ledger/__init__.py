"""The ledger: one SQLite file that says who used how much, at which price. Integers only.

Every request has one row: inserted on admission, checkpointed while it runs, settled once. One thread writes, and
commits everything that waits at once.
"""
