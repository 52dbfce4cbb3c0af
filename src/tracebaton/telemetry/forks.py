"""
What a forked child does not take over from its parent.

A server may load the app and then fork. The child has the parent's queues, counts, locks and open
connections, and none of its threads: what waits there would be sent twice, or never.
"""

import os
import weakref
from collections.abc import Callable

__all__ = ["in_child"]


def in_child(method: Callable[[], object]) -> None:
    """Call the bound *method* in each forked child, as long as its object lives."""
    weak = weakref.WeakMethod(method)

    def call() -> None:
        alive = weak()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=call)
