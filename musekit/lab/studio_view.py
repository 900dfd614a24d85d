"""StudioView: the Studio as a panel. Knobs, a bar that moves through both stages, and a card for each piece."""

from __future__ import annotations

import math
from pathlib import Path

import ipywidgets as w

from musekit.config import MuseConfig, MuseError, preset, suggest
from musekit.lab.job import Job
from musekit.lab.player import Player
from musekit.lab.studio import Result, Studio
from musekit.lab.view import WIDE, View, button, classed, close, row, tags_of
from musekit.library import Library
from musekit.muse import Muse
from musekit.show.players import card
from musekit.solve import SOLVERS

MAX_CARDS = 32  # older ones leave the page; their results stay in `state.results`
EXAMPLE = "a sad piano melody"
COMPARED = {"prompt": str, "negative_prompt": str, "guidance_scale": float, "steps": int, "solver": str}


class StudioView(View):
    """`state` is the `studio.Studio` behind it, for use from any cell."""

    def __init__(
        self,
        weights: str | Path | Muse = "mini",
        prompt: str = EXAMPLE,
        n: int = 2,
        library: Library | None = None,
        **settings,
    ):
        """A system, its folder or its name. Settings: first values of seconds, steps and guidance_scale.

        Raises MuseError for another setting.
        """
        super().__init__("muse")
        self.player = Player()
        self.state, trouble, config = None, "", preset("mini")
        self._shown = 0
        try:
            self.state = Studio(weights, library, self._show)
            config = self.state.muse.config
        except MuseError as error:
            trouble = str(error)
        self.job = self.state.job if self.state else Job()
        self._make(config, prompt, n, settings)
        self._lay_out()
        if trouble:
            self.generate.disabled = self.compare.disabled = True
            self.say(trouble, bad=True)

    def _make(self, config: MuseConfig, prompt: str, n: int, settings: dict) -> None:
        default, most = config.sample, math.floor(config.window_seconds * 10) / 10
        first = {"seconds": default.seconds, "steps": default.stage2_steps, "guidance_scale": default.guidance_scale}
        for name in settings:
            if name not in first:
                raise suggest(name, first, "setting")
        first |= {k: v for k, v in settings.items() if v is not None}
        steps, scale = first["steps"], first["guidance_scale"]
        self.name(
            prompt=classed(w.Text(prompt, placeholder=f"what it should be: {EXAMPLE}", tooltip="the prompt",
                                  continuous_update=False), "muse-big"),
            negative=w.Text("", placeholder="what it should not be", description="not", tooltip="negative prompt",
                            continuous_update=False, **WIDE),
            n=w.IntSlider(n, 1, 16, description="pieces", **WIDE),
            seconds=w.FloatSlider(first["seconds"], min=0.5, max=most, step=0.5, description="seconds", **WIDE),
            steps=w.IntSlider(steps, 1, max(200, steps), description="steps", **WIDE),
            guidance=w.FloatSlider(scale, min=0.0, max=10.0, step=0.5, description="guidance", **WIDE),
            solver=w.Dropdown(options=self.state.solvers if self.state else SOLVERS, value=default.stage2_solver,
                              description="solver", tooltip="a bespoke one is quick and less exact", **WIDE),
            seed=w.BoundedIntText(0, 0, 2**53 - 1024, description="seed", **WIDE),
            fresh=w.Checkbox(False, description="a new seed each time", indent=False),
            generate=button("Generate", "make pieces for the prompt", "play", "primary"),
            cancel=button("Cancel", "stop at the next step; finished pieces stay", "stop"),
            what=w.Dropdown(options=list(COMPARED), value="guidance_scale", description="B differs in", **WIDE),
            value=w.Text("1.0", description="which is", tooltip="B's value", **WIDE),
            compare=button("A/B", "A with these knobs, B with that change, at the same seeds", "adjust"),
            degrees=w.FloatSlider(20.0, min=0.0, max=90.0, step=1.0, description="distance \N{DEGREE SIGN}", **WIDE),
            noise=w.FloatSlider(0.0, min=0.0, max=1.0, step=0.05, description="other noise", **WIDE),
            tags=w.Text("", placeholder="of pieces that you keep, separated by commas", description="tags", **WIDE),
            cards=w.Box([]),  # one widget per card, so that a new card stops no player
        )  # fmt: skip
        self.cancel.disabled = True

    def _lay_out(self) -> None:
        self.on_click({self.generate: lambda: self.state.generate(**self._knobs()), self.cancel: self.job.cancel,
                       self.compare: self._compare})  # fmt: skip
        self.solver.observe(lambda change: self._set_solver(change.new), "value")
        knobs = (self.negative, self.n, self.seconds, self.steps, self.guidance, self.solver, self.seed,
                 self.fresh)  # fmt: skip
        more = [row(self.what, self.value, self.compare), row(self.degrees, self.noise)]
        self.panel(
            "Studio",
            classed(w.HBox([self.prompt, self.generate, self.cancel]), "muse-ask"),
            classed(w.Box(knobs), "muse-grid"),
            w.Accordion(more, titles=("Compare A and B at the same seed", "Distance of 'More like this'")),
            self.player, row(self.tags), self.cards,
        )  # fmt: skip

    def _set_solver(self, name: str) -> None:
        """Disable the knobs that a learned solver decides, and say what it costs."""
        few = self.state.few_step.get(name) if self.state else None
        self.steps.disabled = self.guidance.disabled = few is not None
        if few is not None:
            self.say(
                f"{name}: {few.nfe} evaluations instead of {self.steps.value}, guidance {few.guidance_scale:g} only;"
                f" quicker and less exact: its latents are {few.held_out_error:.0%} off those of {few.teacher}"
            )

    def _knobs(self) -> dict:
        """The knobs' values."""
        few = self.state.few_step.get(self.solver.value)
        return {
            "prompt": self.prompt.value,
            "negative_prompt": self.negative.value if self.negative.value.strip() else None,
            "n": self.n.value,
            "seed": None if self.fresh.value else self.seed.value,
            "seconds": self.seconds.value,
            "steps": None if few else self.steps.value,
            "solver": self.solver.value,
            "guidance_scale": few.guidance_scale if few else self.guidance.value,
        }

    def _compare(self) -> None:
        what, text = self.what.value, self.value.value.strip()
        try:
            value = COMPARED[what](text)
        except ValueError as error:
            raise MuseError(f"B's {what} must be a number, not {text[:40]!r}") from error
        self.state.set(**self._knobs())
        self.state.versus(**{what: value} | ({"steps": None} if what == "solver" else {}))

    # -- cards

    def _card(self, result: Result) -> w.VBox:
        keep = button("Keep", "put it into the library, with the tags above", "bookmark")
        star = w.ToggleButton(False, tooltip="keep and star it", icon="star", layout={"width": "auto"})
        more = button("More like this", "variations at the distance set above", "random")
        save = button("Save", "download it as FLAC, recipe inside", "download")
        for name, widget in {"keep": keep, "star": star, "more": more, "save": save}.items():
            widget.add_class(f"muse-card-{name}")

        def kept() -> None:
            entry = self.state.keep(result, tags_of(self.tags.value), star.value)
            keep.description, keep.icon = "Kept", "check"
            keep.add_class("muse-kept")
            self.say(f"kept no. {result.number}" + (f" with {', '.join(entry.tags)}" if entry.tags else ""))
            self.notify(self.state.library.folder)

        def starred() -> None:
            if star.value:
                kept()
            else:
                self.state.unstar(result)
                self.notify(self.state.library.folder)

        self.on_click({
            keep: kept,
            more: lambda: self.state.more_like(result, self.n.value, self.degrees.value, self.noise.value),
            save: lambda: self.player.download(*self.state.download(result)),
        })  # fmt: skip
        star.observe(self.safely(starred), "value")
        note = f"no. {result.number}" + (f" \N{MIDDLE DOT} {result.note}" if result.note else "")
        return classed(w.VBox([w.HTML(card(result.piece, note)), row(keep, star, more, save)]), "muse-card-box")

    def _show(self) -> None:
        """Update the widgets from the state."""
        self.show_job(self.job, self.generate, self.compare, cancel=self.cancel)
        new = self.state.results[self._shown :]
        if new:
            self._shown += len(new)
            cards = [*(self._card(result) for result in new[-MAX_CARDS:]), *self.cards.children]
            self.cards.children = cards[:MAX_CARDS]
            for old in cards[MAX_CARDS:]:
                close(old)
