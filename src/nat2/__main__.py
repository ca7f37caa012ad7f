"""``python -m nat2`` is the command line."""

from nat2.cli import main

main()
