"""`musekit generate`: from requests to files, each with its recipe beside it."""
