"""Run the command as ``python -m tracebaton``."""

from tracebaton.cli import main

main()
