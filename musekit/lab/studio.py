"""Studio: type a sentence, hear several answers, keep some, ask for variations. `StudioView` shows it as a panel.

studio = Studio("mini", library=Library())
studio.generate("a sad piano melody", n=4, steps=20)  # returns at once
studio.job.wait()
studio.more_like(studio.results[2], degrees=20)
studio.library.add(studio.results[0].piece, tags=["for the film"])
"""

import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import ipywidgets as w
import torch

from musekit.config import MuseError
from musekit.entry import Origin, file_of
from musekit.lab.job import Job
from musekit.lab.rendering import angle, render, slerp
from musekit.lab.view import PANELS, View
from musekit.library import Library
from musekit.muse import Muse, Piece
from musekit.recipe import Settings, count
from musekit.show.players import card
from musekit.solve import SOLVERS

MAX_SEED = 2**31  # of a seed that is drawn here
MAX_CARDS = 32  # older ones leave the page; their results stay in `state.results`


@dataclass(eq=False)
class Result:
    """One piece in the Studio."""

    number: int  # from 1
    piece: Piece
    note: str = ""  # the result that it varies


class Studio:
    """`results` are all pieces of the session, oldest first; `job` runs what was asked for last."""

    def __init__(
        self, muse: Muse | str | Path = "mini", library: Library | None = None, on_change: Callable = lambda: None
    ):
        """A system or its name. The library is by default MUSEKIT_HOME/library."""
        self.muse = muse if isinstance(muse, Muse) else Muse.from_pretrained(muse)
        self.library = Library() if library is None else library
        self.job, self.results = Job(on_change), []

    def generate(self, prompt: str, **options) -> None:
        """Start pieces. Options: n, seed, negative_prompt and the fields of `recipe.Settings`, as `Muse.generate`."""
        self.job.start(lambda: self._answer(prompt, **options))

    def more_like(self, result: Result, n: int = 4, degrees: float = 20.0) -> None:
        """n variations of one result: the embedding moves so far on the sphere, each time towards another sample of
        Stage 1 for the same prompt."""
        if not 0 < degrees <= 180:
            raise MuseError("degrees go from above 0 to 180")
        self.job.start(lambda: self._vary(result, n, degrees))

    def _batch(self, n: int) -> int:
        """Pieces in a micro-batch. On a CPU one: four together take less time, but the first is heard last."""
        return min(n, self.muse.config.sample.micro_batch if self.muse.device.type == "cuda" else 1)

    # -- inside the job's thread

    def _answer(self, prompt: str, n: int = 4, seed: int = 0, negative_prompt: str | None = None, **settings) -> str:
        batch = self._batch(count(n))
        recipes = self.muse.recipes(prompt, n, seed, Settings(micro_batch=batch, **settings), negative_prompt)
        self._collect(self.muse.stream(recipes, self.job.follow(-(-n // batch)), self.job.flag))
        message = f"seeds {recipes[0].seed} to {recipes[-1].seed}" if n > 1 else f"seed {seed}"
        if self.muse.text.is_cut(recipes[0].prompt):
            message += f"; only the first {recipes[0].max_tokens} tokens of the prompt are read"
        return message

    def _vary(self, result: Result, n: int, degrees: float) -> str:
        source, origin = result.piece, getattr(result.piece, "origin", None)
        first, note = secrets.randbelow(MAX_SEED), f"{degrees:g}\N{DEGREE SIGN} from no. {result.number}"
        recipe = replace(source.recipe, micro_batch=self._batch(n))
        as_before = {"stage1_steps": recipe.stage1_steps, "stage1_solver": recipe.stage1_solver}
        goals = self.muse.embed(recipe.prompt, n, first, recipe.negative_prompt, seconds=recipe.seconds, **as_before)
        positions = (math.radians(degrees) / angle(source.embedding, goals)).tolist()
        embeddings = torch.stack([slerp(source.embedding, *to) for to in zip(goals, positions)])
        prompted = origin.prompted if origin else True
        origins = [Origin(f"{note}, seed {seed}", prompted) for seed in range(first, first + n)]
        follow = self.job.follow(-(-n // recipe.micro_batch))
        self._collect(render(self.muse, embeddings, [recipe] * n, origins, follow, self.job.flag), note)
        return f"{n} variations: {note}"

    def _collect(self, pieces: Iterable[Piece], note: str = "") -> None:
        """Collect pieces as they are ready; those that were finished before a cancel stay."""
        for piece in pieces:
            self.results.append(Result(len(self.results) + 1, piece, note))
            self.job.on_change()


class StudioView(View):
    """Widgets, a bar that moves through both stages, and a card for each piece. `state` is the `Studio` behind it."""

    def __init__(
        self,
        weights: str | Path | Muse = "mini",
        prompt: str = "a sad piano melody",
        n: int = 2,
        library: Library | None = None,
        seconds: float | None = None,
        steps: int | None = None,
    ):
        """A system, its folder or its name, and first values of the widgets (None: the preset's)."""
        super().__init__("Studio")
        self.state, self._shown, self._drawn = Studio(weights, library, self._show), 0, None
        self.job, sample = self.state.job, self.state.muse.config.sample
        steps, longest = steps or sample.stage2_steps, math.floor(self.state.muse.config.window_seconds * 10) / 10
        self.make(
            {
                "prompt": {"value": prompt}, "n": {"value": n}, "guidance": {"value": sample.guidance_scale},
                "seconds": {"value": seconds or sample.seconds, "max": longest},
                "steps": {"value": steps, "max": max(200, steps)},
                "solver": {"value": sample.stage2_solver, "options": SOLVERS},
            },
            {
                "generate": lambda: self.state.generate(**self._options()), "cancel": self.job.cancel,
                "keep": self._keep, "save": lambda: self.player.download(*file_of(self._chosen().piece)),
                "more": self._more, "use": self._use, "clear": self._clear, "seed": self._hold,
            },
        )  # fmt: skip
        self.player.on_msg(lambda _, message, __: self._choose(message.get("heard")))
        for text in PANELS["Studio"]["examples"]:
            example = w.Button(description=text, tooltip="hear pieces for this prompt")
            example.on_click(self.safely(lambda text=text: self._example(text)))
            self.examples.children += (example,)

    def _options(self) -> dict:
        """The options of `Studio.generate` in the widgets; a new seed, if one is to be drawn, is shown."""
        if self.fresh.value:
            self._drawn = secrets.randbelow(MAX_SEED)
            self.seed.value = self._drawn
        return {
            "prompt": self.prompt.value,
            "negative_prompt": self.negative.value.strip() or None,
            "n": self.n.value,
            "seed": self.seed.value,
            "seconds": self.seconds.value,
            "steps": self.steps.value,
            "solver": self.solver.value,
            "guidance_scale": self.guidance.value,
        }

    def _chosen(self) -> Result:
        if self.piece.value is None:
            raise MuseError("generate a piece first")
        return self.state.results[self.piece.value - 1]

    def _hold(self) -> None:
        """A seed that somebody wrote is used."""
        self.fresh.value = self.fresh.value and self.seed.value == self._drawn

    def _example(self, text: str) -> None:
        self.prompt.value = text
        self.state.generate(**self._options())

    def _choose(self, number: int | None) -> None:
        """The card that was played last is the chosen piece."""
        if number in [n for _, n in self.piece.options]:
            self.piece.value = number

    def _use(self) -> None:
        recipe = self._chosen().piece.recipe
        self.prompt.value, self.negative.value = recipe.prompt, recipe.negative_prompt or ""
        self.seconds.value, self.steps.value = recipe.seconds, recipe.stage2_steps
        self.solver.value, self.guidance.value = recipe.stage2_solver, recipe.guidance_scale
        self.seed.value, self.fresh.value = recipe.seed, False
        self.say(f"the settings of no. {self.piece.value}, and its seed, which is held")

    def _clear(self) -> None:
        self._drop(list(self.cards.children))
        self.piece.options = ()
        self.say("no cards; what was kept is in the library")

    def _drop(self, old: list[w.Widget]) -> None:
        self.cards.children = [one for one in self.cards.children if one not in old]
        for one in old:
            one.close()

    def _more(self) -> None:
        self.state.more_like(self._chosen(), self.n.value, self.degrees.value)

    def _keep(self) -> None:
        entry = self.state.library.add(self._chosen().piece, tags=self.tags.value.split(","))
        self.say(f"kept no. {self.piece.value}" + (f" with {', '.join(entry.tags)}" if entry.tags else ""))
        self.library_changed()

    def _show(self) -> None:
        """Update the widgets from the state; the newest piece is the chosen one."""
        self.show_job(self.job, self.generate, self.more, cancel=self.cancel)
        for result in self.state.results[self._shown :]:
            note = f"no. {result.number}" + (f" \N{MIDDLE DOT} {result.note}" if result.note else "")
            new = w.HTML(f'<div data-piece="{result.number}">{card(result.piece, note)}</div>')
            self.cards.children = [new, *self.cards.children]
            self._drop(list(self.cards.children[MAX_CARDS:]))
            self.piece.options = [(note, result.number), *self.piece.options]
            self.piece.value = self._shown = result.number
