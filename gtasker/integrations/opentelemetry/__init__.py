"""OpenTelemetry: runners as observable instruments, and a span for each attempt that joins its submitter's trace.

Invariant: nothing is told but through the providers given, or else the global ones; without one it costs next to
nothing.

    from gtasker.integrations.opentelemetry import TracedRunner, observe, traced

    telemetry = observe()                                          # numbers of all runners of this thread
    runner = TracedRunner(Config(on_event=telemetry.recorder(), ...))  # a span for each attempt
    plain.queue_task(traced(transfer), 100)                        # or for this task alone
"""

from __future__ import annotations

from gtasker.integrations.opentelemetry._metrics import Telemetry, observe
from gtasker.integrations.opentelemetry._tracing import TracedRunner, traced

__all__ = ["Telemetry", "TracedRunner", "observe", "traced"]
