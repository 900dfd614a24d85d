"""`python -m musekit`."""

from musekit.cli import main

if __name__ == "__main__":
    main()
