"""The Studio: type a sentence, press Generate, hear several pieces.

`Job` is what happens (a thread that generates, how far it is, what came out); `Studio` is what is seen of it. A job
knows no widget, so it is tested without a browser, and the kernel answers while it runs.
"""

from __future__ import annotations

import contextvars
import html
import math
import threading
from collections.abc import Callable
from pathlib import Path

import ipywidgets

from musekit.cards import card
from musekit.config import MuseConfig, MuseError, preset
from musekit.files import STAGES
from musekit.solve import Cancelled

BEFORE = {"stage1": 0.0, "stage2": 0.08, "codec": 0.88}  # the part of a micro-batch's work that is done before a stage
AFTER = {"stage1": 0.08, "stage2": 0.88, "codec": 1.0}
TICK = 0.005  # a change of the bar that is worth a message to the browser
MOST_CARDS = 32  # older ones leave the page
EXAMPLE = "a sad piano melody"


class Job:
    """One generation at a time, in a thread. `on_change()` is called from that thread whenever something changed.

    status is "ready", "running", "done", "cancelled" or "failed"; fraction is 0 to 1; message is one plain line;
    pieces are those of the last run, as they are finished.
    """

    def __init__(self, muse, on_change: Callable[[], None] = lambda: None):
        self.muse, self.on_change = muse, on_change
        self.status, self.fraction, self.message, self.notice = "ready", 0.0, "", ""
        self.pieces: list = []
        self._cancel, self._thread = threading.Event(), None

    @property
    def running(self) -> bool:
        """Whether a thread is at work."""
        return self.status == "running"

    def start(self, prompt: str, n: int = 1, seed: int = 0, negative_prompt: str | None = None, **settings) -> None:
        """Begin; piece i has the seed `seed + i`. Settings: see `sample.Settings`. Raises MuseError while one runs."""
        if self.running:
            raise MuseError("a generation is running; wait for it, or cancel it first")
        self.status, self.fraction, self.message, self.notice, self.pieces = "running", 0.0, "loading weights", "", []
        self._cancel = threading.Event()
        # the notebook's context goes along: ipykernel looks there for the cell that a message belongs to
        arguments = (self._run, prompt, n, seed, negative_prompt, settings)
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=arguments, name="musekit-job", daemon=True)
        self.on_change()
        self._thread.start()

    def cancel(self) -> None:
        """Stop at the next evaluation of the velocity; finished pieces stay."""
        self._cancel.set()

    def wait(self, timeout: float | None = None) -> str:
        """Wait for the end, at most so many seconds; returns the status."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.status

    def _run(self, prompt: str, n: int, seed: int, negative_prompt: str | None, settings: dict) -> None:
        try:
            self._generate(prompt, n, seed, negative_prompt, settings)
            end = "done", f"{len(self.pieces)} pieces, seeds {seed} to {seed + n - 1}" if n > 1 else f"seed {seed}"
        except Cancelled:
            end = "cancelled", f"cancelled; {len(self.pieces)} of {n} pieces were finished"
        except MuseError as error:
            end = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - a thread's exception would go unseen
            end = "failed", f"{type(error).__name__}: {error}"
        self.status, self.message = end
        self.fraction = 1.0 if self.status == "done" else self.fraction
        self.on_change()

    def _generate(self, prompt: str, n: int, seed: int, negative_prompt: str | None, settings: dict) -> None:
        from musekit.sample import Settings, count

        notices: list[str] = []
        self.muse.notice = notices.append
        recipes = [self.muse.recipe(prompt, seed + i, Settings(**settings), negative_prompt) for i in range(count(n))]
        if self.muse.text.is_cut(recipes[0].prompt):
            notices.append(f"only the first {recipes[0].max_tokens} tokens of the prompt are read")
        self.notice = "; ".join(dict.fromkeys(notices))
        for piece in self.muse.stream(recipes, self._follow(-(-n // recipes[0].micro_batch)), self._cancel):
            self.pieces.append(piece)
            self.on_change()

    def _follow(self, batches: int) -> Callable[[str, int, int], None]:
        """An `on_step` that turns (stage, i, n) of each micro-batch into one fraction, and stops between stages too."""
        batch, last, order = 0, "stage1", list(BEFORE)

        def on_step(stage: str, i: int, n: int) -> None:
            nonlocal batch, last
            if self._cancel.is_set():
                raise Cancelled("cancelled")
            batch += order.index(stage) < order.index(last)  # back at Stage 1: the next micro-batch
            fresh, last = stage != last, stage
            part = BEFORE[stage] + (AFTER[stage] - BEFORE[stage]) * i / n
            fraction, of = (batch + part) / batches, f", micro-batch {batch + 1} of {batches}" if batches > 1 else ""
            self.message = f"{STAGES[stage]}: {i} of {n}{of}"
            if fresh or fraction - self.fraction >= TICK:
                self.fraction = max(self.fraction, fraction)
                self.on_change()

        return on_step


class Studio:
    """Prompt, knobs, Generate and Cancel, a bar that moves in both stages, and a card for each piece."""

    def __init__(self, weights: str | Path = "mini", prompt: str = EXAMPLE, n: int = 2, **settings):
        """Settings (seconds, steps, guidance_scale) are the knobs' first values; others are the preset's."""
        from musekit.sample import Muse

        trouble, muse, config = "", None, preset("mini")
        try:
            muse = Muse.from_pretrained(weights)
            config = muse.config
        except MuseError as error:
            trouble = str(error)
        self.job = Job(muse, self._show)
        self._make(config, prompt, n, settings)
        self._shown = 0
        self.generate.on_click(lambda _: self._start())
        self.cancel.on_click(lambda _: self.job.cancel())
        if trouble:
            self.generate.disabled = True
            self._say(trouble, bad=True)

    def _make(self, config: MuseConfig, prompt: str, n: int, settings: dict) -> None:
        w, default, most = ipywidgets, config.sample, math.floor(config.window_seconds * 10) / 10

        def start(name: str, otherwise):
            return settings.get(name, otherwise)

        wide = {"style": {"description_width": "90px"}, "layout": w.Layout(width="300px")}
        self.prompt = w.Text(prompt, placeholder=EXAMPLE, description="Prompt", layout=w.Layout(width="620px"))
        self.n = w.IntSlider(n, 1, 16, description="pieces", **wide)
        self.seed = w.BoundedIntText(0, 0, 2**53 - 1024, description="seed", **wide)
        seconds, guidance = start("seconds", default.seconds), start("guidance_scale", default.guidance_scale)
        self.seconds = w.FloatSlider(seconds, min=0.5, max=most, step=0.5, description="seconds", **wide)
        self.steps = w.IntSlider(start("steps", default.stage2_steps), 1, 200, description="steps", **wide)
        self.guidance = w.FloatSlider(guidance, min=0.0, max=10.0, step=0.5, description="guidance", **wide)
        self.generate = w.Button(description="Generate", button_style="primary", icon="play")
        self.cancel = w.Button(description="Cancel", icon="stop", disabled=True)
        self.bar = w.FloatProgress(0.0, min=0.0, max=1.0, layout=w.Layout(width="300px"))
        self.label = w.HTML("")
        self.cards = w.Box([], layout=w.Layout(flex_flow="row wrap"))  # a widget a card: a new one stops no player
        names = ("prompt", "n", "seed", "seconds", "steps", "guidance", "generate", "cancel", "bar", "label", "cards")
        for name in names:  # to be found by a test in a browser, and by a style sheet
            getattr(self, name).add_class(f"muse-{name}")
        self.view = w.VBox(
            [
                self.prompt,
                w.HBox([self.n, self.seconds]),
                w.HBox([self.steps, self.guidance]),
                w.HBox([self.seed, self.generate, self.cancel]),
                w.HBox([self.bar, self.label]),
                self.cards,
            ]
        )

    def _start(self) -> None:
        self._shown = 0
        try:
            self.job.start(
                self.prompt.value,
                n=self.n.value,
                seed=self.seed.value,
                seconds=self.seconds.value,
                steps=self.steps.value,
                guidance_scale=self.guidance.value,
            )
        except MuseError as error:
            self._say(str(error), bad=True)

    def _show(self) -> None:
        """Bring the widgets up to what the job says."""
        job = self.job
        self.generate.disabled, self.cancel.disabled = job.running, not job.running
        self.bar.value = job.fraction
        self.bar.bar_style = {"done": "success", "failed": "danger", "cancelled": "warning"}.get(job.status, "info")
        self._say(f"{job.message} ({job.notice})" if job.notice else job.message, bad=job.status == "failed")
        fresh = job.pieces[self._shown :]
        if fresh:
            self._shown += len(fresh)
            new = [ipywidgets.HTML(card(piece)) for piece in fresh]
            keep, old = self.cards.children[: MOST_CARDS - len(new)], self.cards.children[MOST_CARDS - len(new) :]
            self.cards.children = (*new, *keep)
            for widget in old:
                widget.close()

    def _say(self, text: str, bad: bool = False) -> None:
        """One plain line; what a person typed may stand in it, so it is escaped."""
        text = text if len(text) <= 400 else text[:397] + "..."
        self.label.value = f'<span style="color:{"#D55E00" if bad else "inherit"}">{html.escape(text)}</span>'

    def _repr_mimebundle_(self, **options):
        return self.view._repr_mimebundle_(**options)
