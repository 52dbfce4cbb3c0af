"""An application that takes its time to start, or to end, as ``LINGERS`` says."""

import atexit
import os
import sys
import time

from tracebaton import Tracebaton


def linger() -> None:
    """Say so, and stay for a while."""
    sys.stdout.write('{"event": "lingering"}\n')
    sys.stdout.flush()
    time.sleep(10 if os.environ["LINGERS"] == "start" else 1)


app = Tracebaton()
if os.environ["LINGERS"] == "start":
    linger()
else:
    atexit.register(linger)
