"""Which extra of the package brings which optional module: `pip install 'musekit[EXTRA]'` (see pyproject.toml)."""

from __future__ import annotations

EXTRAS = {
    "corpus": ("music21", "scipy", "pretty_midi", "midirenderer", "soxr"),
    "lab": (
        "jupyterlab", "ipywidgets", "anywidget", "traitlets", "ipykernel", "IPython", "nbformat", "nbclient", "voila",
        "plotly", "umap", "sklearn", "scipy", "pandas", "librosa",
    ),
    "paper": ("transformers", "diffusers", "muq", "torchvision", "huggingface_hub"),
}  # fmt: skip


def advice(error: ModuleNotFoundError) -> str | None:
    """One line for a module that an extra would bring; None for any other module."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    return f"this needs the package {name}: pip install 'musekit[{extra}]'" if extra else None
