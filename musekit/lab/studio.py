"""Studio: type a sentence, hear several answers, keep some, vary, repaint or continue them. `StudioView` is the panel.

studio = Studio("mini", library=Library())
studio.generate("a sad piano melody", n=4, steps=20)  # returns at once
studio.job.wait()
studio.more_like(studio.results[2], degrees=20)
studio.library.add(studio.results[0].piece, tags=["for the film"])
"""

import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ipywidgets as w
import msgspec
import torch
import traitlets

from musekit.config import TONICS, MuseError
from musekit.controls import Controls
from musekit.entry import Entry, Origin, entry_of, file_of
from musekit.files import decode
from musekit.harmony import keyed
from musekit.lab.job import Job
from musekit.lab.rendering import RenderedPiece, angle, render, render_again, slerp
from musekit.lab.view import PANELS, Face, View, escaped
from musekit.library import Library
from musekit.muse import Muse, Piece
from musekit.prompts import read_prompt
from musekit.recipe import Settings, count
from musekit.show.players import card, waveform
from musekit.solve import SOLVERS
from musekit.tune import Note, read_tune

MAX_SEED = 2**31  # of a seed that is drawn here
MAX_CARDS = 32  # older ones leave the page; their results stay in `state.results`
SIDE = '<button class="muse-side" data-side="{0}" aria-pressed="false" aria-label="no. {1} is {0}">{0}</button>'


@dataclass(frozen=True)
class Past:
    """All that makes a piece again, as text for a page that outlives its kernel."""

    entry: Entry
    source: "Past | None" = None  # of a piece that was repainted or continued


@dataclass(eq=False)
class Result:
    """One piece in the Studio."""

    number: int  # from 1
    piece: Piece
    past: Past
    note: str = ""  # the result that it varies, and how

    @property
    def text(self) -> str:
        """What `Studio.bring_back` reads."""
        return msgspec.json.encode(self.past).decode()


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
        """Start pieces. Options: n, seed, negative_prompt, draft (by `Muse.draft`), the fields of `recipe.Settings`."""
        self.job.start(lambda: self._answer(prompt, **options))

    def more_like(self, result: Result, n: int = 4, degrees: float = 20.0) -> None:
        """n variations of one result: the embedding moves so far on the sphere, each time towards another sample of
        Stage 1 for the same prompt."""
        if not 0 < degrees <= 180:
            raise MuseError("degrees go from above 0 to 180")
        self.job.start(lambda: self._vary(result, n, degrees))

    def repaint(self, result: Result, start: float, stop: float, **options) -> None:
        """Start pieces with new music from `start` to `stop` (s). Options: n, draft and those of `Muse.repaint`."""
        note = f"{start:g} to {stop:g} s of no. {result.number} repainted"
        self.job.start(lambda: self._edit(result, Muse.repaint, (start, stop), note, **options))

    def go_on(self, result: Result, seconds: float, **options) -> None:
        """Start pieces that continue a result for so many seconds. Options: those of `repaint`."""
        note = f"no. {result.number} and {seconds:g} s more"
        self.job.start(lambda: self._edit(result, Muse.continue_, (seconds,), note, **options))

    def bring_back(self, texts: Sequence[str]) -> None:
        """Start to make earlier results again from their `Result.text`; anyone may have written these texts."""
        self.job.start(lambda: self._again([str(text) for text in texts[-MAX_CARDS:]]))

    def _batch(self, n: int) -> int:
        """Pieces in a micro-batch. On a CPU one: four together take less time, but the first is heard last."""
        return min(n, self.muse.config.sample.micro_batch if self.muse.device.type == "cuda" else 1)

    # -- inside the job's thread

    def _answer(
        self, prompt: str, n: int = 4, seed: int = 0, negative_prompt: str | None = None, draft=False, **settings
    ) -> str:
        batch, muse = self._batch(count(n)), self.muse.draft if draft else self.muse
        recipes = muse.recipes(prompt, n, seed, Settings(micro_batch=batch, **settings), negative_prompt)
        self._collect(muse.stream(recipes, self.job.follow(-(-n // batch)), self.job.flag))
        message = f"seeds {recipes[0].seed} to {recipes[-1].seed}" if n > 1 else f"seed {seed}"
        if muse.text.is_cut(recipes[0].prompt):
            message += f"; only the first {recipes[0].max_tokens} tokens of the prompt are read"
        return message

    def _vary(self, result: Result, n: int, degrees: float) -> str:
        source, origin = result.piece, getattr(result.piece, "origin", None)
        first, note = secrets.randbelow(MAX_SEED), f"{degrees:g}\N{DEGREE SIGN} from no. {result.number}"
        shorter = min(source.recipe.seconds, self.muse.config.window_seconds)  # a continued piece may be longer
        recipe = replace(source.recipe, micro_batch=self._batch(n), edit=None, seconds=shorter)
        as_before = {"stage1_steps": recipe.stage1_steps, "stage1_solver": recipe.stage1_solver}
        muse = self.muse.of(recipe)
        goals = muse.embed(recipe.prompt, n, first, recipe.negative_prompt, seconds=recipe.seconds, **as_before)
        positions = (math.radians(degrees) / angle(source.embedding, goals)).tolist()
        embeddings = torch.stack([slerp(source.embedding, *to) for to in zip(goals, positions)])
        prompted = origin.prompted if origin else True
        origins = [Origin(f"{note}, seed {seed}", prompted) for seed in range(first, first + n)]
        follow = self.job.follow(-(-n // recipe.micro_batch))
        self._collect(render(muse, embeddings, [recipe] * n, origins, follow, self.job.flag), note)
        return f"{n} variations: {note}"

    def _edit(
        self, result: Result, edit, where: tuple, note: str, n=1, seed=0, prompt=None, draft=False, **settings
    ) -> str:
        origin, muse = getattr(result.piece, "origin", None), self.muse.draft if draft else self.muse
        origin = Origin(note, prompt is not None or origin is None or origin.prompted)
        for i in range(count(n)):
            follow = self.job.follow(1, i / n, (i + 1) / n)
            piece = edit(muse, result.piece, *where, prompt, seed + i, on_step=follow, cancel=self.job.flag, **settings)
            self._collect([RenderedPiece(**vars(piece), origin=origin)], note, result.past)
        return note

    def _again(self, texts: Sequence[str]) -> str:
        made, missing = {result.past: result.piece for result in self.results}, []

        def make(past: Past, follow) -> Piece:
            if past not in made:
                source = past.source and make(past.source, follow)
                made[past] = render_again(self.muse, past.entry, follow, self.job.flag, source)
            return made[past]

        for i, text in enumerate(texts):
            try:
                past = decode(text, Past, "what the page remembers")
                piece = make(past, self.job.follow(1, i / len(texts), (i + 1) / len(texts)))
            except MuseError as error:
                missing.append(f"; one is not: {error}")
            else:
                note = f" \N{MIDDLE DOT} {past.entry.origin.how}" if past.entry.origin else ""
                self.results.append(Result(len(self.results) + 1, piece, past, f"from before{note}"))
                self.job.on_change()
        return f"{len(texts) - len(missing)} of {len(texts)} pieces are back" + "".join(dict.fromkeys(missing))

    def _collect(self, pieces: Iterable[Piece], note: str = "", source: Past | None = None) -> None:
        """Collect pieces as they are ready; those that were finished before a cancel stay."""
        for piece in pieces:
            self.results.append(Result(len(self.results) + 1, piece, Past(entry_of(piece), source), note))
            self.job.on_change()


class Desk(w.Widget):
    """What the Studio's own scripts show: the chosen piece's waveform and the part of it that is chosen, and what the
    page remembers of the pieces."""

    piece = traitlets.Int(0).tag(sync=True)  # its number; 0: none
    outline = traitlets.Unicode("").tag(sync=True)  # SVG
    seconds = traitlets.Float(0.0).tag(sync=True)
    part = traitlets.List(traitlets.Float(), []).tag(sync=True)  # start and stop in seconds, or nothing
    pieces = traitlets.List(traitlets.Unicode()).tag(sync=True)  # `Result.text` of the newest


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
        self.job, self.desk, sample = self.state.job, Desk(), self.state.muse.config.sample
        self.tune_notes: tuple[list[Note], float | None] | None = None  # and their tempo
        steps, longest = steps or sample.stage2_steps, math.floor(self.state.muse.config.window_seconds * 10) / 10
        self.make(
            {
                "prompt": {"value": prompt}, "n": {"value": n}, "guidance": {"value": sample.guidance_scale},
                "seconds": {"value": seconds or sample.seconds, "max": longest},
                "steps": {"value": steps, "max": max(200, steps)},
                "solver": {"value": sample.stage2_solver, "options": SOLVERS},
                "draft": {"disabled": self.state.muse.draft is self.state.muse},
                "metre": {"options": [("any", 0), *((str(i), i) for i in range(1, 13))]},
                "key": {"options": [("any", ""), *((f"{t} {m}",) * 2 for t in TONICS for m in ("major", "minor"))]},
            },
            {
                "generate": lambda: self.state.generate(**self._options()), "cancel": self.job.cancel,
                "keep": self._keep, "save": lambda: self.player.download(*file_of(self._chosen().piece)),
                "more": self._more, "use": self._use, "clear": self._clear, "seed": self._hold,
                "melody": self._upload, "forget": lambda: self._follow(None), "piece": self._draw,
                "repaint": lambda: self._edit(self.state.repaint, self.desk.part),
                "go_on": lambda: self._edit(self.state.go_on, [self.longer.value]),
            },
            **{name: Face(self.desk, f"{name}.js", f"muse-{name}") for name in ("wave", "pair", "hum", "past")},
        )  # fmt: skip
        self.player.on_msg(lambda _, message, __: self._choose(message.get("heard")))
        self.desk.on_msg(lambda _, message, data: self.safely(lambda: self._told(message, *data))())
        for text in PANELS["Studio"]["examples"]:
            example = w.Button(description=text, tooltip="hear pieces for this prompt")
            example.on_click(self.safely(lambda text=text: self._example(text)))
            self.examples.children += (example,)

    def _options(self) -> dict:
        """The options of `Studio.generate` in the widgets."""
        prompt, negative = self.prompt.value, self.negative.value.strip() or None
        return {"prompt": prompt, "negative_prompt": negative, "seconds": self.seconds.value} | self._how(prompt)

    def _how(self, prompt: str) -> dict:
        """How to sample, in the widgets; a new seed, if one is to be drawn, is shown."""
        if self.fresh.value:
            self._drawn = secrets.randbelow(MAX_SEED)
            self.seed.value = self._drawn
        how = {name: getattr(self, name).value for name in ("n", "seed", "draft")}
        if not self.draft.value:
            how |= {"steps": self.steps.value, "solver": self.solver.value, "guidance_scale": self.guidance.value}
            how |= {"control_guidance": self.closer.value} if self.steer.value else {}
        return how | (self._steering(prompt) if self.steer.value else {})

    def _steering(self, prompt: str) -> dict:
        """The controls in the widgets; None: not asked. A melody goes with the tempo asked for, or has its own."""
        text, others = self.bpm.value.strip(), ("metre", "key", "chords")
        try:
            bpm = float(text) if text else None
        except ValueError:
            raise MuseError(f"the tempo {text[:40]!r} is no number of beats per minute") from None
        notes, tempo = self.tune_notes or (None, None)
        if tempo:
            said = read_prompt(prompt).get("bpm")
            stretch, bpm = tempo / (bpm or said or tempo), bpm or (None if said else tempo)
            notes = [(round(a * stretch, 3), round(b * stretch, 3), pitch) for a, b, pitch in notes]
        return {"bpm": bpm, "melody": notes} | {name: getattr(self, name).value or None for name in others}

    def _upload(self) -> None:
        files, self.melody.value = self.melody.value, ()
        if files:  # the line above emptied it
            self._listen(files[0]["content"], str(files[0]["name"]))

    def _told(self, message: dict, hum: bytes | None = None) -> None:
        self._listen(hum, "what you hummed") if hum else self.state.bring_back(message["past"])

    def _listen(self, data: bytes, name: str) -> None:
        def work() -> str:
            self.job.report(f"listening to {name}", 0.1)
            self._follow(read_tune(bytes(data), name))
            return f"the next pieces follow {name}: {len(self.tune_notes[0])} notes"

        self.job.start(work)

    def _follow(self, tune: tuple[list[Note], float | None] | None) -> None:
        """Ask for a melody, or for none."""
        self.tune_notes, self.tune.value = tune, ""
        if tune:
            (notes, tempo), self.steer.value = tune, True
            names = " ".join(f"{TONICS[pitch % 12]}{pitch // 12 - 1}" for *_, pitch in notes)
            self.tune.value = escaped(f"{len(notes)} notes{f' at {tempo:g} BPM' if tempo else ''}: {names}", 120)

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
        self.seconds.value, self.draft.value = recipe.seconds, self.state.muse.of(recipe) is not self.state.muse
        if not self.draft.value:
            self.steps.value, self.solver.value = recipe.stage2_steps, recipe.stage2_solver
            self.guidance.value, self.closer.value = recipe.guidance_scale, recipe.control_guidance
        self.seed.value, self.fresh.value = recipe.seed, False
        said, asked = read_prompt(recipe.prompt) if recipe.controls else {}, recipe.controls or Controls()
        self.bpm.value = "" if asked.bpm is None or "bpm" in said else str(asked.bpm).removesuffix(".0")
        drawn = "key" in said or keyed(replace(asked, key=None, mode=None)) == asked  # from the chords or the tune
        self.key.value = "" if drawn else f"{asked.key} {asked.mode}"
        self.metre.value = 0 if "metre" in said else asked.metre or 0
        self.chords.value = asked.chords or ""
        self._follow(asked.melody and (list(asked.melody), asked.bpm))
        self.steer.value = any((self.bpm.value, self.key.value, self.metre.value, asked.chords, asked.melody))
        self.say(f"the settings of no. {self.piece.value}, and its seed, which is held")

    def _clear(self) -> None:
        self._drop(list(self.cards.children))
        self.piece.options, self.desk.pieces = (), []
        self.say("no cards; what was kept is in the library")

    def _drop(self, old: list[w.Widget]) -> None:
        self.cards.children = [one for one in self.cards.children if one not in old]
        for part in (part for one in old for part in (one.layout, one.style, one)):  # none closes with another
            part.close()

    def _more(self) -> None:
        self.state.more_like(self._chosen(), self.n.value, self.degrees.value)

    def _draw(self) -> None:
        """The chosen piece in the waveform."""
        number = self.piece.value or 0
        with self.desk.hold_sync():
            self.desk.piece, self.desk.part = number, []
            if number:
                audio, rate = self._chosen().piece.audio, self._chosen().piece.sample_rate
                self.desk.outline, self.desk.seconds = waveform(audio, 900, 96), audio.shape[1] / rate

    def _edit(self, edit: Callable, where: Sequence[float]) -> None:
        """Repaint or continue the chosen piece, as the widgets say."""
        chosen, prompt = self._chosen(), self.prompt.value if self.anew.value else None
        if not where:
            raise MuseError("choose a part first: drag over the waveform, or move its two marks with the arrow keys")
        edit(chosen, *where, prompt=prompt, **self._how(prompt or chosen.piece.recipe.prompt))

    def _keep(self) -> None:
        entry = self.state.library.add(self._chosen().piece, tags=self.tags.value.split(","))
        self.say(f"kept no. {self.piece.value}" + (f" with {', '.join(entry.tags)}" if entry.tags else ""))
        self.library_changed()

    def _show(self) -> None:
        """Update the widgets from the state; the newest piece is the chosen one."""
        self.show_job(self.job, self.generate, self.more, self.repaint, self.go_on, cancel=self.cancel)
        for result in self.state.results[self._shown :]:
            note = f"no. {result.number}" + (f" \N{MIDDLE DOT} {result.note}" if result.note else "")
            sides = "".join(SIDE.format(side, result.number) for side in "AB")
            text = f'<div data-piece="{result.number}">{card(result.piece, note)}<div>{sides}</div></div>'
            if len(self.cards.children) == MAX_CARDS:  # cards behind a change are drawn anew and stop: not each time
                self._drop(list(self.cards.children[:2]))
            self.cards.children = [*self.cards.children, w.HTML(text, layout={"order": str(-result.number)})]
            self.desk.pieces = [*self.desk.pieces, result.text][-MAX_CARDS:]
            self._shown, part = result.number, [] if result.past.source else self.desk.part  # stay where that is
            chosen = self.piece.value if part else result.number
            self.piece.options = [(note, result.number), *self.piece.options]
            self.piece.value, self.desk.part = chosen, part
