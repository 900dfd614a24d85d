"""StudioView: the Studio as a panel. Settings, a bar that moves through both stages, and a card for each piece."""

from __future__ import annotations

import math
import secrets
from pathlib import Path

import ipywidgets as w

from musekit import fewstep
from musekit.config import MuseError
from musekit.lab.studio import MAX_SEED, Result, Studio
from musekit.lab.view import WIDE, View, classed, row
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
        seconds: float | None = None,
        steps: int | None = None,
    ):
        """A system, its folder or its name, and first values of the widgets (None: the preset's)."""
        super().__init__("muse")
        self.state, self._shown = Studio(weights, library, self._show), 0
        self.job, sample = self.state.job, self.state.muse.config.sample
        self.few_step = fewstep.offered(self.state.muse.folder)  # {name: its steps and guidance}
        self._make(prompt, n, seconds or sample.seconds, steps or sample.stage2_steps)

    def _make(self, prompt: str, n: int, seconds: float, steps: int) -> None:
        config = self.state.muse.config
        longest = math.floor(config.window_seconds * 10) / 10
        self.name(
            prompt=classed(w.Text(prompt, placeholder=f"what it should be: {EXAMPLE}", tooltip="the prompt",
                                  continuous_update=False), "muse-big"),
            negative=w.Text("", placeholder="what it should not be", description="not", tooltip="negative prompt",
                            continuous_update=False, **WIDE),
            n=w.IntSlider(n, 1, 16, description="pieces", **WIDE),
            seconds=w.FloatSlider(seconds, min=0.5, max=longest, step=0.5, description="seconds", **WIDE),
            steps=w.IntSlider(steps, 1, max(200, steps), description="steps", **WIDE),
            guidance=w.FloatSlider(config.sample.guidance_scale, min=0.0, max=10.0, step=0.5, description="guidance",
                                   **WIDE),
            solver=w.Dropdown(options=[*SOLVERS, *self.few_step], value=config.sample.stage2_solver,
                              description="solver", tooltip="a bespoke one is quick and less exact", **WIDE),
            seed=w.BoundedIntText(0, 0, 2**53 - 1024, description="seed", **WIDE),
            fresh=w.Checkbox(False, description="a new seed each time", indent=False),
            what=w.Dropdown(options=list(COMPARED), value="guidance_scale", description="B differs in", **WIDE),
            value=w.Text("1.0", description="which is", tooltip="B's value", **WIDE),
            piece=w.Dropdown(options=[], description="piece", tooltip="for the buttons beside it", **WIDE),
            tags=w.Text("", placeholder="separated by commas", description="tags", **WIDE),
            degrees=w.FloatSlider(20.0, min=0.0, max=90.0, step=1.0, description="distance \N{DEGREE SIGN}", **WIDE),
            noise=w.FloatSlider(0.0, min=0.0, max=1.0, step=0.05, description="other noise", **WIDE),
            cards=w.Box([]),  # one widget per card, so that a new card stops no player
        )  # fmt: skip
        self.solver.observe(lambda change: self._set_solver(change.new), "value")
        generate = self.button("generate", "Generate", "make pieces for the prompt",
                               lambda: self.state.generate(**self._options()), "play", "primary")  # fmt: skip
        cancel = self.button("cancel", "Cancel", "stop at the next step; finished pieces stay", self.job.cancel, "stop")
        cancel.disabled = True
        compare = self.button("compare", "A/B", "A with these values, B with that change, at the same seeds",
                              self._compare, "adjust")  # fmt: skip
        keep = self.button("keep", "Keep", "put it into the library, with these tags", self._keep, "bookmark")
        save = self.button("save", "Save", "download it as FLAC, recipe inside",
                           lambda: self.player.download(*self.state.download(self._chosen())), "download")  # fmt: skip
        more = self.button("more", "More like this", "variations at this distance", self._more, "random")
        grid = (self.negative, self.n, self.seconds, self.steps, self.guidance, self.solver, self.seed, self.fresh)
        self.panel(
            "Studio",
            classed(w.HBox([self.prompt, generate, cancel]), "muse-ask"),
            classed(w.Box(grid), "muse-grid"), row(self.what, self.value, compare),
            row(self.piece, self.tags, keep, save), row(self.degrees, self.noise, more),
            self.player, self.cards,
        )  # fmt: skip

    def _set_solver(self, name: str) -> None:
        """Disable the widgets whose values a learned solver decides."""
        self.steps.disabled = self.guidance.disabled = name in self.few_step

    def _options(self) -> dict:
        """The options of `Studio.generate` in the widgets."""
        few = self.few_step.get(self.solver.value)
        return {
            "prompt": self.prompt.value,
            "negative_prompt": self.negative.value.strip() or None,
            "n": self.n.value,
            "seed": secrets.randbelow(MAX_SEED) if self.fresh.value else self.seed.value,
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
        changes = {what: value} | ({"steps": None} if value in self.few_step else {})
        self.state.versus(self._options(), **changes)

    def _chosen(self) -> Result:
        if self.piece.value is None:
            raise MuseError("generate a piece first")
        return self.state.results[self.piece.value - 1]

    def _more(self) -> None:
        self.state.more_like(self._chosen(), self.n.value, self.degrees.value, self.noise.value)

    def _keep(self) -> None:
        entry = self.state.keep(self._chosen(), self.tags.value.split(","))
        self.say(f"kept no. {self.piece.value}" + (f" with {', '.join(entry.tags)}" if entry.tags else ""))
        self.library_changed()

    def _show(self) -> None:
        """Update the widgets from the state; the newest piece is the chosen one."""
        self.show_job(self.job, self.generate, self.compare, self.more, cancel=self.cancel)
        new = self.state.results[self._shown :]
        if new:
            self._shown += len(new)
            notes = [f"no. {r.number}" + (f" \N{MIDDLE DOT} {r.note}" if r.note else "") for r in reversed(new)]
            cards = [w.HTML(card(r.piece, note)) for r, note in zip(reversed(new), notes)]
            cards = [*cards, *self.cards.children]
            self.cards.children = cards[:MAX_CARDS]
            for old in cards[MAX_CARDS:]:
                old.close()
            self.piece.options = [*((note, r.number) for r, note in zip(reversed(new), notes)), *self.piece.options]
            self.piece.value = new[-1].number
