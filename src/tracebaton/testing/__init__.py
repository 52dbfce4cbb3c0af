"""
Test an application: whole in one process, or in real ones while everything around it fails.

    async with Stage(app) as stage:
        answer = await stage.http.post("/v1/ai/chat", json={"message": "hi"})
        await stage.run_until_idle()
        assert_one_trace(stage.spans)
"""

from tracebaton.local import Fault
from tracebaton.testing.captured import CapturedEvent
from tracebaton.testing.chaos import Chaos
from tracebaton.testing.judge import Verdict
from tracebaton.testing.one_trace import assert_one_trace
from tracebaton.testing.proxy import FaultProxy
from tracebaton.testing.stage import Stage
from tracebaton.testing.storm import STORM, Plan

__all__ = [
    "STORM",
    "CapturedEvent",
    "Chaos",
    "Fault",
    "FaultProxy",
    "Plan",
    "Stage",
    "Verdict",
    "assert_one_trace",
]
