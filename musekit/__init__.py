"""MUSE: a sentence becomes many different pieces of music, by flow matching twice.

    text -> Stage 1 (`stage1.Text2MuQFlow`) -> joint embedding (512,) -> Stage 2 (`stage2.StableAudioMuQ`)
         -> codec latents (C, T) -> `codec` -> 44.1 kHz stereo audio

Importing the package does nothing else: no download, no device choice, no environment read.
"""

__version__ = "0.1.0"

__all__ = ["Muse", "__version__"]


def __getattr__(name: str):
    # PEP 562: `from musekit import Muse` works, `import musekit` stays instant.
    if name == "Muse":
        from musekit.muse import Muse

        return Muse
    raise AttributeError(f"module 'musekit' has no attribute {name!r}")
