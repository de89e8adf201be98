"""A plugin for pytest, beside llama-server's tests: models are not loaded ahead, and a server may take long to start.

The tests would start a server for each of their models first, to download it; here all are the same two. On a busy
machine a daemon may take more than the minute that they wait.
"""

from __future__ import annotations

import utils  # of the tests

START_TIMEOUT_S = 600

utils.ServerPreset.load_all = staticmethod(lambda: None)
utils.ServerProcess.start.__defaults__ = (START_TIMEOUT_S,)
