"""Presets: Python functions that return one complete `MuseConfig`. Nothing else differs between them.

mini   runs on a laptop CPU, offline; its weights come with the package
paper  the full-size system (271M + 1.05B); its weights are trained on a cluster
smoke  tiny and random, for tests; what it makes is noise, and says so
"""

from __future__ import annotations

from musekit.parts import CodecConfig, EmbedderConfig, MuseConfig, SampleConfig, Stage1Config, Stage2Config, TextConfig


def mini() -> MuseConfig:
    """The laptop preset: ~22M parameters, 12 s window, weights in the package."""
    # the noise is to keep Stage 2 from knowing a training clip by the last digits of its embedding; a small model shows
    # no need of so little of it, and more costs loss: results/ablation-noise.json
    # with this autoguidance modes are obeyed and answers stay varied: results/prompts.json, diversity.json
    stage2, sample = Stage2Config(embedding_noise=0.01), SampleConfig(stage1_autoguidance=2.0)
    return MuseConfig(name="mini", stage2=stage2, sample=sample)


def smoke() -> MuseConfig:
    """Tiny and random, the same classes throughout: for tests. Its sounds are noise."""
    return MuseConfig(
        name="smoke",
        codec=CodecConfig(width=32, encoder_depth=1, decoder_depth=1, latent_dim=8, phase_iterations=2),
        embedder=EmbedderConfig(width=32, depth=1, text_width=32),
        stage1=Stage1Config(width=32, depth=2, heads=2, gaussian_rank=8),
        stage2=Stage2Config(latent_dim=8, condition_dim=16, width=32, depth=2, head_dim=16, kv_heads=2, max_frames=259),
        sample=SampleConfig(stage1_steps=3, stage2_steps=3, seconds=2.0),
    )


def paper() -> MuseConfig:
    """The full-size system on public encoders: 271M + 1.05B, a window of 47.55 s; no weights come with it.

    The frozen parts are named, not copied: hub names here, and a folder's path does as well (`encoders.hub`).
    """
    return MuseConfig(
        name="paper",
        codec=CodecConfig(kind="oobleck", name="stabilityai/stable-audio-open-1.0"),
        text=TextConfig(kind="t5", name="google/flan-t5-base", dim=768, max_tokens=128),
        embedder=EmbedderConfig(kind="muq", name="OpenMuQ/MuQ-MuLan-large", sample_rate=24000),
        stage1=Stage1Config(text_dim=768, width=1024, depth=16, heads=16, ff_mult=4, idle_weights=True),
        stage2=Stage2Config(
            condition_dim=768,
            width=1536,
            depth=24,
            kv_heads=12,
            ff_mult=4.0,
            patch=1,
            modulation=False,
            max_frames=1024,
            stable_audio=True,
        ),
        sample=SampleConfig(stage2_steps=100, stage1_solver="dopri5", stage1_guidance_scale=3.0, seconds=47.5),
    )


PRESETS = {"mini": mini, "smoke": smoke, "paper": paper}
