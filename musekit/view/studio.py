"""The Studio, seen: knobs, a bar that moves in both stages, a card for each answer and what can be done with it."""

from __future__ import annotations

import math
from pathlib import Path

import ipywidgets as w

from musekit.config import MuseConfig, MuseError, preset, suggest
from musekit.explore import studio as state
from musekit.explore.job import Job
from musekit.library import Library
from musekit.muse import Muse
from musekit.show.players import card
from musekit.solve import SOLVERS
from musekit.view import bell
from musekit.view.desk import Desk
from musekit.view.parts import WIDE, View, button, classed, close, grid, row, tags_of

MOST_CARDS = 32  # older ones leave the page; they stay in `state.results`
EXAMPLE = "a sad piano melody"
COMPARED = {"prompt": str, "negative_prompt": str, "guidance_scale": float, "steps": int, "quality": str, "solver": str}


class Studio(View):
    """`state` is the `studio.Studio` behind it, usable from any cell."""

    def __init__(
        self,
        weights: str | Path | Muse = "mini",
        prompt: str = EXAMPLE,
        n: int = 2,
        library: Library | None = None,
        **settings,
    ):
        """A system, its folder or its name. Settings (seconds, steps, guidance_scale) are the knobs' first values.

        Raises MuseError for another setting.
        """
        super().__init__("muse")
        self.state, trouble, config = None, "", preset("mini")
        self._plain = None  # steps and guidance as they were before a solver came that has its own
        try:
            self.state = state.Studio(weights, library, self._show)
            config = self.state.muse.config
        except MuseError as error:
            trouble = str(error)
        self.job = self.state.job if self.state else Job()
        self._shown = 0
        self._make(config, prompt, n, settings)
        self.desk = Desk()
        self._lay_out()
        if trouble:
            self.generate.disabled = self.versus.disabled = True
            self.say(trouble, bad=True)

    def _make(self, config: MuseConfig, prompt: str, n: int, settings: dict) -> None:
        default, most = config.sample, math.floor(config.window_seconds * 10) / 10
        first = {"seconds": default.seconds, "steps": default.stage2_steps, "guidance_scale": default.guidance_scale}
        for name in settings:
            if name not in first:
                raise suggest(name, first, "setting")
        first |= {k: v for k, v in settings.items() if v is not None}
        text = {"continuous_update": False}
        self.name(
            prompt=classed(
                w.Text(prompt, placeholder=f"what it should be: {EXAMPLE}", tooltip="the prompt", **text), "muse-big"
            ),
            negative=w.Text(
                "", placeholder="what it should not be", description="not", tooltip="steer away", **text, **WIDE
            ),
            n=w.IntSlider(n, 1, 16, description="pieces", **WIDE),
            seconds=w.FloatSlider(first["seconds"], min=0.5, max=most, step=0.5, description="seconds", **WIDE),
            quality=w.ToggleButtons(
                options=list(state.QUALITIES),
                value="good",
                tooltips=["quick and dull", "the preset's own", "slow"],
                description="quality",
                style=WIDE["style"] | {"button_width": "auto"},
            ),  # fmt: skip
            steps=w.IntSlider(first["steps"], 1, max(200, first["steps"]), description="steps", **WIDE),
            guidance=w.FloatSlider(
                first["guidance_scale"], min=0.0, max=10.0, step=0.5, description="guidance", **WIDE
            ),
            solver=w.Dropdown(
                options=self.state.solvers if self.state else SOLVERS,
                value=default.stage2_solver,
                description="solver",
                tooltip="how Stage 2 is solved; a bespoke one takes few steps and is less exact",
                **WIDE,
            ),
            seed=w.BoundedIntText(0, 0, 2**53 - 1024, description="seed", **WIDE),
            fresh=w.Checkbox(False, description="a new seed each time", indent=False),
            generate=button("Generate", "answer the prompt", "play", "primary"),
            cancel=button("Cancel", "stop at the next step; what is finished stays", "stop"),
            what=w.Dropdown(options=list(COMPARED), value="guidance_scale", description="B differs in", **WIDE),
            value=w.Text("1.0", description="which is", tooltip="B's value", **WIDE),
            versus=button("A/B", "A as the knobs are, B with that change, at the same seeds", "adjust"),
            degrees=w.FloatSlider(20.0, min=0.0, max=90.0, step=1.0, description="distance \N{DEGREE SIGN}", **WIDE),
            noise=w.FloatSlider(0.0, min=0.0, max=1.0, step=0.05, description="other noise", **WIDE),
            tags=w.Text("", placeholder="given to what you keep, separated by commas", description="tags", **WIDE),
            bar=self.bar,
            label=self.label,
            cards=w.Box([]),  # a widget a card: a new one stops no player
        )
        self.cancel.disabled = True
        self._steps_of = {q: max(1, round(f[1] * default.stage2_steps)) for q, f in state.QUALITIES.items()}

    def _lay_out(self) -> None:
        self.generate.on_click(self.safely(self._generate))
        self.cancel.on_click(lambda _: self.job.cancel())
        self.versus.on_click(self.safely(self._versus))
        self.quality.observe(lambda change: self._set_steps(self._steps_of[change.new]), "value")
        self.solver.observe(lambda change: self._solved_by(change.new), "value")
        more = [row(self.what, self.value, self.versus), row(self.degrees, self.noise)]
        titles = ("Compare A and B at the same seed", "How far 'More like this' goes")
        self.panel(
            "Studio",
            classed(w.HBox([self.prompt, self.generate, self.cancel]), "muse-ask"),
            grid(self.negative, self.n, self.seconds, self.quality, self.steps, self.guidance, self.solver, self.seed,
                 self.fresh),
            w.Accordion(more, titles=titles),
            self.desk, row(self.tags), self.cards,
        )  # fmt: skip

    def _set_steps(self, n: int) -> None:
        """The steps of a quality, kept for later while the solver has its own."""
        if self._plain is None:
            self.steps.value = n
        else:
            self._plain = n, self._plain[1]

    def _solved_by(self, name: str) -> None:
        """Steps and guidance become a learned solver's own, and come back with a plain one; says what it costs."""
        few = self.state.few_step.get(name) if self.state else None
        self.steps.disabled = self.guidance.disabled = few is not None
        if few is not None:
            self._plain = self._plain or (self.steps.value, self.guidance.value)
            self.steps.value, self.guidance.value = few.nfe, few.guidance_scale
            self.say(
                f"{name}: {few.nfe} evaluations instead of {self._plain[0]}, and guidance {few.guidance_scale:g} only;"
                f" quicker and less exact: its latents are {few.error:.0%} off those of {few.teacher}"
            )
        elif self._plain is not None:
            (self.steps.value, self.guidance.value), self._plain = self._plain, None
            self.say(f"{name}: {self.steps.value} steps, guidance {self.guidance.value:g}")

    def _knobs(self) -> dict:
        """The knobs as they stand."""
        return {
            "prompt": self.prompt.value,
            "negative_prompt": self.negative.value if self.negative.value.strip() else None,
            "n": self.n.value,
            "seed": None if self.fresh.value else self.seed.value,
            "quality": self.quality.value,
            "seconds": self.seconds.value,
            "steps": self.steps.value,
            "solver": self.solver.value,
            "guidance_scale": self.guidance.value,
        }

    def _generate(self) -> None:
        self.state.generate(**self._knobs())

    def _versus(self) -> None:
        what, text = self.what.value, self.value.value.strip()
        try:
            value = COMPARED[what](text)
        except ValueError as error:
            raise MuseError(f"B's {what} must be a number, not {text[:40]!r}") from error
        self.state.set(**self._knobs())
        own = what in ("quality", "solver")  # a quality says its own steps, and so does a learned solver
        changes = {what: value} | ({"steps": None} if own else {})
        self.state.versus(**changes)

    # -- cards

    def _card(self, result: state.Result) -> w.VBox:
        keep = button("Keep", "put it into the library, with the tags above", "bookmark")
        star = w.ToggleButton(False, tooltip="keep and star it", icon="star", layout={"width": "auto"})
        more = button("More like this", "variations at the distance set above", "random")
        flac, wav = button("FLAC", "download, recipe inside", "download"), button("WAV", "download", "download")
        for name, widget in {"keep": keep, "star": star, "more": more, "flac": flac, "wav": wav}.items():
            widget.add_class(f"muse-card-{name}")

        def kept() -> None:
            entry = self.state.keep(result, tags_of(self.tags.value), star.value)
            keep.description, keep.icon = "Kept", "check"
            keep.add_class("muse-kept")
            self.say(f"kept no. {result.number}" + (f" with {', '.join(entry.tags)}" if entry.tags else ""))
            bell.ring(self.state.library.folder, self)

        def starred() -> None:
            if star.value:
                kept()
            else:
                self.state.unstar(result)
                bell.ring(self.state.library.folder, self)

        keep.on_click(self.safely(kept))
        star.observe(self.safely(starred), "value")
        more.on_click(
            self.safely(lambda: self.state.more_like(result, self.n.value, self.degrees.value, self.noise.value))
        )
        flac.on_click(self.safely(lambda: self.desk.download(*self.state.download(result, "flac"))))
        wav.on_click(self.safely(lambda: self.desk.download(*self.state.download(result, "wav"))))
        note = f"no. {result.number}" + (f" \N{MIDDLE DOT} {result.note}" if result.note else "")
        return classed(
            w.VBox([w.HTML(card(result.piece, note)), row(keep, star, more), row(flac, wav)]), "muse-card-box"
        )

    def _show(self) -> None:
        """Bring the widgets up to what the state says."""
        self.show_job(self.job, self.generate, self.versus, cancel=self.cancel)
        fresh = self.state.results[self._shown :]
        if fresh:
            self._shown += len(fresh)
            new = [self._card(result) for result in fresh][-MOST_CARDS:]
            keep, old = self.cards.children[: MOST_CARDS - len(new)], self.cards.children[MOST_CARDS - len(new) :]
            self.cards.children = (*new, *keep)
            for widget in old:
                close(widget)
