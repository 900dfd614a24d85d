"""TensorBoard: the same records as metrics.jsonl, for who likes to watch curves."""

from __future__ import annotations

from pathlib import Path

from musekit.config import MuseError


class Board:
    """TensorBoard's event files, made when the first record comes. Raises MuseError where the package is missing."""

    def __init__(self, folder: Path):
        try:
            import tensorboard  # noqa: F401 - torch's writer needs it
        except ImportError as error:
            missing = "TensorBoard is not installed: pip install tensorboard, or leave out --train.tensorboard"
            raise MuseError(missing) from error
        self.folder, self.writer = folder, None

    def log(self, record: dict) -> None:
        """Each number of a record at its sample; what a killed run wrote beyond the first one is hidden."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=record["samples"])
        for name, value in record.items():
            if name != "samples":
                self.writer.add_scalar(name.replace("valid_", "valid/"), value, record["samples"])
        self.writer.flush()
