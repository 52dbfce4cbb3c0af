"""Worked examples; `tracebaton dev` runs the chat service."""
