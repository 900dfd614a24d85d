"""The three instruments for a notebook: `Studio`, `Lab` and `Library`, each a thin view over a plain class.

from musekit.view import Studio, Lab, Library
Studio("mini")          # the last value of a cell shows it; `.state` is the plain class behind it
"""

from musekit.view.lab import Lab
from musekit.view.library import Library
from musekit.view.studio import MOST_CARDS, Studio

__all__ = ["MOST_CARDS", "Lab", "Library", "Studio"]
