"""Notebook 05 as a web page: its text and its instruments, through Voila, with nothing fetched from elsewhere.

    python scripts/app.py                       http://127.0.0.1:8866 (Voila's options may follow)
    python scripts/app.py --weights FOLDER --port 9000 --theme=dark

Cells tagged `notebook` (the evidence, which takes minutes) are skipped. The address that is printed and opened holds a
token; without it nothing is answered. Each page has a kernel of its own, which ends with the page, four at most
(--Kernels.limit=N). On your own machine the library is that of your notebooks. Where --ip lets other machines in, or
with --Kernels.private=True, each browser has a library of its own, under MUSEKIT_HOME/visitors, and no other folder.
"""

import argparse
import os
import signal
import tempfile
from pathlib import Path

import nbformat

from musekit.lab import TORNADO_SETTINGS
from run_notebooks import set_parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "05_latent_lab.ipynb"
SKIPPED_TAG = "notebook"
IDLE_SECONDS = 600  # a page says when it closes; a kernel whose page was lost ends after this time


def page(values: dict) -> nbformat.NotebookNode:
    """The notebook without skipped cells and without outputs."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    set_parameters(notebook, values)
    notebook.cells = [cell for cell in notebook.cells if SKIPPED_TAG not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--weights", help="a name that comes with the package, or a folder of weights")
    parser.add_argument("--n", type=int, help="pieces, at first")
    parser.add_argument("--seconds", type=float, help="of each piece, at first")
    parser.add_argument("--steps", type=int, help="of Stage 2, at first")
    asked, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="muse-app-") as folder:
        place = Path(folder) / "muse.ipynb"
        nbformat.write(page({k: v for k, v in vars(asked).items() if v is not None}), place)
        ours = {
            "VoilaConfiguration.template": "muse",
            "VoilaConfiguration.allow_template_override": "NO",  # by the address
            "VoilaConfiguration.allow_theme_override": "NO",
            "VoilaConfiguration.multi_kernel_manager_class": "voila_server.Kernels",
            "MappingKernelManager.cull_interval": 60,
            "MappingKernelManager.cull_idle_timeout": IDLE_SECONDS,
            "MappingKernelManager.cull_connected": False,
        }
        # read when Voila is imported, and by nothing before
        paths = [str(ROOT / "scripts"), *filter(None, [os.environ.get("JUPYTER_PATH")])]
        os.environ["JUPYTER_PATH"] = os.pathsep.join(paths)
        from voila_server import App

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: its kernels end with it
        options = [str(place), *(f"--{name}={value}" for name, value in ours.items()), *options]
        App.launch_instance(options, tornado_settings=TORNADO_SETTINGS)


if __name__ == "__main__":
    main()
