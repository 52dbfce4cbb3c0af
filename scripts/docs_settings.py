"""Writes the table of settings into its page, out of the file that the package explains them by."""

from typing import Any

from tracebaton.doctor.explained import listed

MARK = "<!-- settings -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark by one section a variable."""
    if MARK not in markdown:
        return markdown
    sections = [
        f"## {name}\n\n{meaning}\n" + (f"\nDefault: `{default}`\n" if default else "")
        for name, default, meaning in listed()
    ]
    return markdown.replace(MARK, "\n".join(sections))
