"""The research poster: figures from results, and the A0 sheet that holds them. See `python -m poster --help`."""
