"""The sub-commands of `musekit`: one file each, a dataclass whose fields are its options.

What takes long to import is imported by `run`, so that help comes at once.
"""

from musekit.commands.bench import Bench
from musekit.commands.cache import Cache
from musekit.commands.evaluate import Evaluate
from musekit.commands.generate import Generate
from musekit.commands.info import Info
from musekit.commands.lab import Lab
from musekit.commands.train import Train

__all__ = ["Bench", "Cache", "Evaluate", "Generate", "Info", "Lab", "Train"]
