"""`musekit generate`: files, recipes, bits that depend on the recipe only, prompt files, ranks, and resuming."""

import gc
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from musekit import generate as module
from musekit.cli import main
from musekit.commands import Generate
from musekit.config import MuseError
from musekit.files import read_json
from musekit.muse import Muse, Piece, Settings
from musekit.recipe import MAX_PROMPT_CHARS, Recipe, clean_prompt, file_stem

OPTIONS = {"seconds": 0.5, "n": 4, "micro_batch": 2}


@pytest.fixture
def generate(smoke_weights, tmp_path, monkeypatch):
    """Make pieces into a folder of an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def call(prompt: str | None = "a sad piano melody", **options) -> dict[Path, module.Finished]:
        options = OPTIONS | options
        return module.generate_files(Generate(prompt=prompt, weights=str(smoke_weights), out=Path("out"), **options))

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def test_a_prompt_becomes_pieces_recipes_and_a_contact_sheet(generate, capsys):
    made = generate()
    out, err = capsys.readouterr()
    stem = "a-sad-piano-melody"
    expected = [f"{stem}-{i}.{kind}" for i in range(4) for kind in ("json", "wav")] + [f"{stem}.png"]
    assert sorted(contents(Path("out"))) == sorted(expected) and err == ""
    for i, (path, piece) in enumerate(made.items()):
        with soundfile.SoundFile(path) as wav:
            assert (wav.samplerate, wav.channels, wav.frames, wav.subtype) == (44100, 2, 22050, "PCM_16")
            assert Recipe.from_json(wav.comment) == piece.recipe
            assert np.abs(wav.read()).max() > 0.01
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert Recipe(**sidecar["recipe"]) == piece.recipe and piece.recipe.seed == i
        assert sidecar["nfe"] == {"stage1": 3, "stage2": 3} and -1 <= sidecar["similarity"] <= 1
    assert len({path.read_bytes() for path in made}) == 4
    lines = out.splitlines()
    assert lines[0].split() == ["seed", "seconds", "similarity", "file"]
    assert [line.split()[0::3] for line in lines[1:5]] == [[str(i), str(path)] for i, path in enumerate(made)]
    assert f"contact sheet: out/{stem}.png" in out and "noise" in out
    assert Path(f"out/{stem}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("micro_batch", "dtype"), [(1, "float32"), (4, "float32"), (4, "bfloat16"), (8, "float32"), (16, "float32")]
)
def test_a_piece_depends_on_neither_its_position_nor_the_rest_of_the_batch(smoke_weights, micro_batch, dtype):
    """Both stages and the sound, to the bit, with other prompts in the same micro-batch."""
    muse = Muse.from_pretrained(smoke_weights, dtype=dtype)
    settings = Settings(seconds=0.2, micro_batch=micro_batch, stage1_guidance_scale=1.5)
    texts = ["a sad piano melody", "a fast fiddle tune", "an organ", "a calm lullaby for solo harp, in three-four time"]
    negatives = [None, "slow", None, "fast"]
    recipes = [muse.recipe(text, i, settings, negatives[i]) for i, text in enumerate(texts)]
    pieces = list(muse.stream(recipes))
    mixed = {piece.recipe: piece for piece in muse.stream([recipes[i] for i in (2, 0, 3, 1)])}
    for recipe, piece in zip(recipes, pieces):
        for other in (*muse.stream([recipe]), mixed[recipe]):
            assert torch.equal(other.embedding, piece.embedding)
            assert torch.equal(other.audio, piece.audio)
            assert other.similarity == piece.similarity
    assert not torch.equal(pieces[0].embedding, pieces[2].embedding)


@pytest.mark.usefixtures("one_thread")
def test_a_finished_piece_is_kept_and_only_missing_ones_are_made(generate, capsys, monkeypatch):
    paths = list(generate(n=3))
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].with_suffix(".json").unlink()  # as after a kill between the WAV and its JSON file
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[: len(data) // 2])
    capsys.readouterr()
    second = generate(n=4)
    out, err = capsys.readouterr()
    assert "1 of 4 pieces exist already" in out and err.count("is replaced") == 2
    assert [piece.recipe.seed for piece in second.values()] == [0, 1, 2, 3]
    assert [path.stat().st_mtime_ns == time for path, time in zip(paths, times)] == [True, False, False]
    assert paths[2].read_bytes() == data
    monkeypatch.setattr(module, "load", lambda *_: pytest.fail("networks were loaded"))
    assert second == generate(n=4) and "4 of 4 pieces" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGUSR1])
def test_after_a_kill_or_a_signal_the_same_command_resumes(ranks, smoke_weights, tmp_path, kind):
    command = ["generate", "a piano", "--n", "9", "--seconds", "0.5", "--out", str(tmp_path / "out")]
    command += ["--weights", str(smoke_weights), "--micro-batch", "1", "--stage1-steps", "40"]
    job = ranks.start(1, command, tmp_path / "log")
    while not list(tmp_path.glob("out/*.json")):
        assert not job.ended(0.005), job.text()
    os.kill(job.pids[0], kind)
    assert job.wait() == [-kind if kind == signal.SIGKILL else os.EX_TEMPFAIL]
    assert ("stopped on a signal" in job.text()) == (kind == signal.SIGUSR1)
    left = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.json")}
    assert 1 <= len(left) < 9
    for wav in tmp_path.glob("out/*.wav"):
        assert soundfile.info(wav).frames == 22050
    said = ranks.run(1, command, tmp_path / "log").text()
    assert f"{len(left)} of 9 pieces exist already" in said and "Traceback" not in said
    assert len(list(tmp_path.glob("out/*.wav"))) == len(list(tmp_path.glob("out/*.json"))) == 9
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in left} == left


@pytest.mark.usefixtures("one_thread")
def test_a_recording_is_a_melody_and_an_edit_tells_what_it_read(smoke_weights, tmp_path, capsys):
    times = np.arange(22050) / 44100
    voice = [np.sin(2 * np.pi * hz * times) * np.minimum(1, 20 * (0.5 - times)) for hz in (261.6, 329.6, 392.0)]
    soundfile.write(tmp_path / "tune.wav", 0.3 * np.concatenate(voice), 44100)
    words = ["--n", "1", "--seconds", "1", "--weights", str(smoke_weights), "--out", str(tmp_path)]
    main(["generate", "a flute", "--melody", str(tmp_path / "tune.wav"), "--bpm", "90", *words])
    piece = read_json(tmp_path / "a-flute-0.json", module.Finished)
    assert [pitch for *_, pitch in piece.recipe.controls.melody] == [60, 64, 67]
    assert piece.controls == piece.recipe.controls and "90 BPM  " in capsys.readouterr().out
    edit = ["generate", "a harp at 80 BPM", "--repaint", str(tmp_path / "a-flute-0.wav"), "--start", "0.2"]
    edit += ["--stop", "0.5", "--threads", "1", *words]
    main(edit), main(edit)
    err = capsys.readouterr().err
    assert "read in 'a harp at 80 BPM': bpm 80" in err and "is replaced" not in err
    with pytest.raises(SystemExit):
        main([*edit[:-1], str(tmp_path / "tune.wav")])
    assert "choose another --out" in capsys.readouterr().err
    assert read_json(tmp_path / "a-flute-0-repainted-0.2-0.5-0.json", module.Finished).recipe.threads == 1


def test_any_number_of_pieces_runs_in_the_memory_of_one_micro_batch(generate, monkeypatch):
    gc.collect()
    alive, write, others = [], module.write, {id(thing) for thing in gc.get_objects() if type(thing) is Piece}

    def count(path, piece):
        alive.append(sum(type(thing) is Piece and id(thing) not in others for thing in gc.get_objects()))
        return write(path, piece)

    monkeypatch.setattr(module, "write", count)
    generate(n=7, seconds=0.1)
    assert len(alive) == 7 and max(alive) <= 2


@pytest.mark.parametrize(
    "prompt", ["../../etc/passwd", "a/b\\c", "a" * 300, "ünïcödé 悲しい", "$(x) `id`", "%s\\x $x_1$"]
)
def test_a_file_never_leaves_its_folder(generate, tmp_path, prompt):
    ((path, piece),) = generate(prompt, n=1, seconds=0.1).items()
    assert path.resolve().parent == tmp_path / "out"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(path.name) < 100 and path.name.isascii()
    assert piece.recipe.prompt == clean_prompt(prompt)


def test_file_names_keep_prompts_apart():
    names = ["a piano", "a piano!", "a-piano", "a piano é", "a piano 悲", *("a piano " + "x" * k for k in (100, 101))]
    assert len({file_stem(name) for name in names}) == len(names)
    assert file_stem("a sad piano melody") == "a-sad-piano-melody"


def test_a_prompt_is_cleaned_and_cut_with_one_note_each(generate, capsys):
    def prompt_and_notes(prompt: str) -> tuple[str, list[str]]:
        capsys.readouterr()
        (piece,) = generate(prompt, n=1, seconds=0.1).values()
        return piece.recipe.prompt, capsys.readouterr().err.splitlines()

    prompt, (characters, tokens) = prompt_and_notes("a sad piano melody " * 6000)
    assert len(prompt) <= MAX_PROMPT_CHARS and "114,000 characters" in characters and "first 2,000" in characters
    assert "first 32 tokens" in tokens and len(tokens) < 250
    assert len(prompt_and_notes("a slow sad piano melody in a minor key " * 4)[1]) == 1
    found = prompt_and_notes("a \x00sad\x1b[31m\npiano\t \U0001f3b9 melody\x7f")
    assert found == ("a sad [31m piano \U0001f3b9 melody", [])
    assert "other scripts" in prompt_and_notes("a piano, грустно")[1][0]


LINES = [
    {"prompt": "a sad piano melody", "n": 3},
    {"prompt": "an organ chorale", "seed": 7, "negative_prompt": "slow"},
    {"prompt": "a sad piano melody", "seed": 1, "steps": 2, "name": "two steps"},
    {"prompt": "a fast fiddle tune", "seconds": 0.3, "n": 2},
]


def prompt_file(folder: Path, lines, name: str = "many.jsonl") -> Path:
    path = folder / name
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\ufeff" + "\r\n".join([*text[:1], "", *text[1:]]) + "\n", encoding="utf-8")
    return path


def test_two_ranks_make_the_same_files_as_one_and_resume(ranks, smoke_weights, tmp_path):
    """Hashes of every file; what is there is not made again, what was removed is, whoever's share it is."""
    words = ["generate", "--prompts", str(prompt_file(tmp_path, LINES)), "--weights", str(smoke_weights), "--n", "1"]
    words += ["--seconds", "0.5", "--micro-batch", "2", "--threads", "1", "--out"]
    for world in (1, 2):
        ranks.run(world, [*words, str(tmp_path / f"out{world}")], tmp_path / f"log{world}")
    one, two = contents(tmp_path / "out1"), contents(tmp_path / "out2")
    assert one == two and sum(name.endswith(".wav") for name in one) == 7
    stems = ("a-sad-piano-melody-0", "a-sad-piano-melody-1", "an-organ-chorale-7", "two-steps-1")
    assert {f"{stem}.{kind}" for stem in stems for kind in ("wav", "json")} | {"many.png"} <= one.keys()
    assert json.loads(one["two-steps-1.json"])["recipe"]["stage2_steps"] == 2
    assert soundfile.info(tmp_path / "out1" / "a-fast-fiddle-tune-0.wav").frames == 13230
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out2").glob("*.wav")}
    (tmp_path / "out2" / "an-organ-chorale-7.json").unlink()
    job = ranks.run(2, [*words, str(tmp_path / "out2")], tmp_path / "log")
    assert "6 of 7 pieces exist already" in job.text(0) and contents(tmp_path / "out2") == one
    changed = {p.name for p in (tmp_path / "out2").glob("*.wav") if p.stat().st_mtime_ns != times[p.name]}
    assert changed == {"an-organ-chorale-7.wav"}
    assert "contact sheet" not in job.text(1)


def test_plain_text_is_one_prompt_per_line(tmp_path):
    path = prompt_file(tmp_path, ["a piano", '  {"prompt": "not an object here"}', "an organ\x85 in C"], "a.txt")
    found = module.read_requests(Generate(prompts=path, seed=5, n=2, steps=3), lambda text: None)
    assert [(line, r.prompt, r.seed, r.n, r.steps) for line, r in found.items()] == [
        (1, "a piano", 5, 2, 3),
        (3, '{"prompt": "not an object here"}', 5, 2, 3),
        (4, "an organ in C", 5, 2, 3),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"prompt": "a piano", "promt": "x"}, "unknown field in the object 'promt'; did you mean 'prompt'"),
        ("{", "Input data was truncated"),
        ({"n": 2}, "missing required field `prompt`"),
        ({"prompt": "", "n": 1}, "prompt is empty"),
        ({"prompt": "a piano", "n": "4"}, "Expected `int"),
        ({"prompt": "a piano", "n": 0}, "must be 1 or more"),
        ({"prompt": "a piano", "solver": "eular"}, "unknown solver 'eular'; did you mean 'euler'"),
        ({"prompt": "a piano", "seed": 0, "steps": 2}, 'another line makes a-piano-0.wav .* give this line a "name"'),
    ],
)
def test_a_wrong_line_is_named_by_number_before_any_sampling(generate, tmp_path, line, says):
    path = prompt_file(tmp_path, [{"prompt": "a piano"}, line])
    with pytest.raises(MuseError, match=f"many.jsonl, line 3: .*{says}") as caught:
        generate(None, n=1, prompts=path)
    assert "\n" not in str(caught.value) and not contents(tmp_path / "out")


@pytest.mark.parametrize(("data", "says"), [(b"\xff\xfe", "cannot read .* UTF-8"), (b" \n\n", "contains no prompt")])
def test_a_file_without_prompts_is_one_line(generate, tmp_path, data, says):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(MuseError, match=says):
        generate(None, prompts=tmp_path / "a.txt")


def test_the_same_piece_twice_is_made_once_and_a_prompt_is_given_once(generate, tmp_path):
    path = prompt_file(tmp_path, [{"prompt": "a piano"}, {"prompt": "a  piano"}])
    assert len(generate(None, n=1, seconds=0.1, prompts=path)) == 1
    for given in ({"prompt": "a piano", "prompts": path}, {"prompt": None}):
        with pytest.raises(MuseError, match="either a PROMPT"):
            generate(**given)
