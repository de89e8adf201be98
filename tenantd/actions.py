"""What administrators do, as events and the audit trail name it."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """What an administrator did."""

    TENANT_ADDED = "tenant_added"
    TENANT_CHANGED = "tenant_changed"
    TENANT_SUSPENDED = "tenant_suspended"
    TENANT_RESUMED = "tenant_resumed"
    TENANT_THROTTLED = "tenant_throttled"
    ANOMALIES_CLEARED = "anomalies_cleared"  # a tenant is no longer throttled, and what it does next counts as usual
    TENANT_RENAMED = "tenant_renamed"
    TENANT_REMOVED = "tenant_removed"
    TENANT_FORGOTTEN = "tenant_forgotten"  # the key for hashes of its prompts and answers was deleted
    KEY_CREATED = "key_created"
    KEY_REVOKED = "key_revoked"
    KEY_ROTATED = "key_rotated"
    AUDIT_PRUNED = "audit_pruned"  # old entries were deleted
    REQUESTS_PRUNED = "requests_pruned"  # rows of months that are over were deleted
    REQUEST_CANCELLED = "request_cancelled"
    PAGE_OPENED = "page_opened"  # an address was asked for that opens the web page as an administrator
    PRICES_SET = "prices_set"
    RELOADED = "reloaded"  # configuration and tenants, by SIGHUP
    INVOICE_FINALIZED = "invoice_finalized"
    INVOICE_CREDITED = "invoice_credited"
    BUDGET_SET = "budget_set"
    BUDGET_TOPPED_UP = "budget_topped_up"  # for its current period
    BUDGET_REMOVED = "budget_removed"
