"""`python -m musekit`."""

from musekit.cli import main

main()
