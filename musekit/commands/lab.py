"""`musekit lab`: notebook 05 in JupyterLab."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from musekit.config import MuseError


@dataclass
class Lab:
    """Open the latent lab, notebook 05, in JupyterLab.

    For example, on a machine without a screen (JupyterLab then prints the address to open):

        musekit lab --no-browser
    """

    browser: bool = True
    """Open a browser window."""

    def run(self) -> None:
        from importlib.util import find_spec

        from musekit.lab import TORNADO_SETTINGS

        places = [Path(__file__).resolve().parents[2] / "notebooks", Path("notebooks").resolve()]
        notebook = next((p / "05_latent_lab.ipynb" for p in places if (p / "05_latent_lab.ipynb").exists()), None)
        if notebook is None:
            raise MuseError(
                "notebooks/05_latent_lab.ipynb is neither beside this package nor in this folder; the notebooks"
                " come with the source, not with the package: run `musekit lab` or `make lab` in a checkout"
            )
        if find_spec("jupyterlab") is None:
            raise MuseError("JupyterLab is not installed: pip install 'musekit[lab]'")
        settings = f"--ServerApp.tornado_settings={json.dumps(TORNADO_SETTINGS)}"
        options = [settings, *([] if self.browser else ["--no-browser"])]
        sys.exit(subprocess.run([sys.executable, "-m", "jupyterlab", *options, str(notebook)]).returncode)
