"""
The one place that masks secrets, for logs, spans, breadcrumbs, events and problems.

Pure functions. A secret is known by its name (`names`: a key, a URL query name) or by its shape
(`shapes`: a token, a key, a PEM block, a card number), in free text by both (`text`). What is kept
of a value has a size and a depth (`values`, `exceptions`).
"""

from tracebaton.redaction.exceptions import redact_exception
from tracebaton.redaction.names import MASK, is_sensitive
from tracebaton.redaction.text import redact_text, redact_url
from tracebaton.redaction.values import Limits, are_clean, is_clean, redact_mapping, redact_value

__all__ = [
    "MASK",
    "Limits",
    "are_clean",
    "is_clean",
    "is_sensitive",
    "redact_exception",
    "redact_mapping",
    "redact_text",
    "redact_url",
    "redact_value",
]
