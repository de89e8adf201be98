"""Settings of all tests."""

from __future__ import annotations

import contextlib
import signal

with contextlib.suppress(ImportError):  # tests with the oldest client have an environment of their own, without it
    from hypothesis import settings

    settings.register_profile("tenantd", deadline=None)  # how long a case takes depends on what else the machine does
    settings.load_profile("tenantd")

# A shell starts what it runs in the background with SIGINT ignored, and so would be all programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
