"""
The collector of garbage, kept from looking again and again through what stays anyway.
"""

import gc
from typing import Final

__all__ = ["spare"]

#: Objects that come alive before the youngest of them are looked through for garbage, and how many
#: such looks make one through older ones. A few messages use up Python's 700.
_COLLECTIONS: Final = (10_000, 20, 20)
_USUAL: Final = gc.get_threshold()


def spare() -> None:
    """
    Spare the collector of garbage what the process has made at its start, as it stays to the end.

    Each full collection would look through all of botocore's models: 60 to 90 ms in which an event
    loop answers nobody. An application that has set the collector itself is left alone.
    """
    if gc.isenabled() and gc.get_threshold() == _USUAL:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECTIONS)
