"""
Spans of many threads at once, all of them sent to Sentry: ``python many_threads.py THREADS COUNT``.

Prints how many calls raised into the code that made the spans, and what was held afterwards.
"""

import gc
import json
import os
import sys
import threading

from tracebaton import Settings, configure_telemetry

DSN = os.environ["BENCH_SINK"].replace("http://", "http://abc123@") + "/42"
#: Spans of one unit: a root and what is below it.
UNIT = 50


def main(number: int, count: int) -> None:
    """Make *count* spans in each thread, and tell what went wrong."""
    telemetry = configure_telemetry(Settings.load({"SENTRY_DSN": DSN}))
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(count // UNIT):
                with telemetry.reporter.isolated(), telemetry.tracer.start_as_current_span("root"):
                    for _ in range(UNIT - 2):
                        telemetry.tracer.start_span("inner").end()
                    telemetry.tracer.start_span("never ended")
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    telemetry.force_flush(120)
    gc.collect()
    assert telemetry.sentry is not None
    held = len(telemetry.sentry.processor)  # type: ignore[arg-type]
    report = telemetry.shutdown(60)
    told = {
        "spans": number * count,
        "raised": len(problems),
        "spans_held": held,
        "spans_sent": report.spans_exported,
        "spans_dropped": report.spans_dropped,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
