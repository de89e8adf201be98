"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tenantd", deadline=None)  # how long a case takes depends on what else the machine does
settings.load_profile("tenantd")
