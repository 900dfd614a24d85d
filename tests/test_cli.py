"""The command line: every mistake is one clear line, exit code 2, no traceback, and nothing half-written."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from musekit import arguments, cli
from musekit.commands import lab


@pytest.fixture
def musekit(capsys, tmp_path, monkeypatch):
    """Call the command line in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main(list(words))
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


def refused(result: tuple[int, str, str], *said: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds every one of `said`."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("musekit: ") and err.count("\n") == 1 and len(err) < 700, err
    for words in said:
        assert words in err, err


@pytest.mark.parametrize(
    "words",
    [
        ["cache", "--preset", "smoke", "--kinds", "tokens"],
        ["generate", "a piano", "--weights", "{weights}", "--seconds", "0.2"],
    ],
)
def test_a_job_on_a_node_whose_gpus_torch_does_not_see_ends_at_once(musekit, tiny, monkeypatch, words):
    """slurm/job.sh tells what the job asked for; hours on a CPU would be paid as hours of a GPU."""
    monkeypatch.setenv("MUSEKIT_GPUS", "4096")
    refused(musekit(*(word.format(weights=tiny.weights) for word in words)), "4096 GPUs are required and torch sees")


# -- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        (["genrate", "a piano"], "did you mean 'generate'?"),
        (["a sad piano melody"], "unknown command"),
        ([], "musekit generate"),
        (["generate"], "PROMPT"),
        (["generate", "--stepz", "3", "a piano"], "did you mean --steps?"),
        (["generate", "a piano", "--sedd=3"], "did you mean --seed?"),
        (["generate", "a piano", "--guidance_scael", "3"], "did you mean --guidance-scale?"),
        (["generate", "--n", "many", "a piano"], "'many'"),
        (["generate", "--n", "2.5", "a piano"], "'2.5'"),
        (["generate", "--n", "x" * 100_000, "a piano"], "--n"),
        (["generate", "--seconds", "long", "a piano"], "'long'"),
        (["generate", "--dtype", "float8", "a piano"], "bfloat16"),
        (["generate", "a", "sad", "piano"], "quotes"),
        (["generate", "-sad piano"], 'after "--"'),
        (["generate", "--steps"], "--steps"),
        (["train", "codecs"], "'codec'"),
        (["train", "codec", "--lr", "1"], "did you mean --train.lr?"),
        (["train", "codec", "--train.bathc", "1"], "did you mean --train.batch?"),
        (["train", "solver", "--train.samples", "9"], "a solver is none"),
        (["cache", "--worker", "3"], "did you mean --workers?"),
        (["cache", "--n", "-5"], "--n must be 1 or more, not -5"),
        (["cache", "--workers", "0"], "--workers must be 1 or more, not 0"),
        (
            ["bench", "stage1", "--weights", "mini"],
            "leave --weights out, or name one of end-to-end, batch, memory, lab",
        ),
        (["eval", "gallery", "--audio", "music"], "belong to `musekit eval folder`"),
        (["info", "mimi"], "did you mean 'mini'?"),
        (["--verbose"], "--verbose"),
    ],
)
def test_a_wrong_argument_is_one_line(musekit, words, said):
    refused(musekit(*words), said)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_teaches_by_example(musekit, command):
    code, out, err = musekit(command, "--help")
    assert (code, err) == (0, "")
    assert f"    musekit {command}" in out.split("For example", 1)[1]


def test_help_names_every_command(musekit):
    code, out, _ = musekit("--help")
    assert code == 0
    assert all(re.search(rf"• {name} ", out) for name in cli.COMMANDS)


def test_every_option_has_a_help_text(musekit):
    for command, cls in cli.COMMANDS.items():
        out = musekit(command, "--help")[1].replace("\n", " ")
        for name in arguments.option_names(cls):
            if name.startswith("--train.") or "-no-" in name:
                continue
            assert re.search(rf"{name}\b[ │A-Z{{}},a-z0-9-]*[A-Za-z\"]", out), name


def test_help_comes_without_torch():
    """What makes help slow is torch (2 s): no help text but `train`'s imports it."""
    commands = [name for name in cli.COMMANDS if name != "train"]
    code = f"""
import sys
from musekit import cli
for words in [["--help"], *([c, "--help"] for c in {commands}), ["generate", "--stepz", "1"]]:
    try:
        cli.main(words)
    except SystemExit:
        pass
    assert not {{"torch", "numpy", "matplotlib", "music21"}} & set(sys.modules), words
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(cli.__file__).parents[1])


def test_words_after_two_dashes_are_no_options(monkeypatch):
    seen = []
    monkeypatch.setattr(cli.Generate, "run", lambda self: seen.append((self.prompt, self.n)))
    for prompt in ("-sad piano", "--steps", "-5", "--", ""):
        cli.main(["generate", "--n", "2", "--", prompt])
    assert seen == [("-sad piano", 2), ("--steps", 2), ("-5", 2), ("--", 2), ("", 2)]


def test_underscores_and_equal_signs_are_welcome(monkeypatch):
    seen = []
    monkeypatch.setattr(cli.Generate, "run", lambda self: seen.append((self.guidance_scale, self.negative_prompt)))
    cli.main(["generate", "--guidance_scale=2", "--negative-prompt=fast", "a piano"])
    assert seen == [(2.0, "fast")]


def test_training_options_reach_the_train_config(monkeypatch):
    from musekit.config import TrainConfig

    seen = []
    monkeypatch.setattr(cli.Train, "run", lambda self: seen.append(self.train))
    cli.main(["train", "stage2", "--train.samples", "10", "--train.no-bf16"])
    assert (seen[0].samples, seen[0].bf16, type(seen[0])) == (10, False, TrainConfig)


def test_an_interrupt_says_how_to_go_on(musekit, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Generate, "run", stop)
    code, _, err = musekit("generate", "a piano")
    assert code == 130 and "same command" in err and err.count("\n") == 1


def test_lab_says_where_the_notebooks_are(musekit, tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "site-packages" / "musekit" / "commands" / "lab.py"))
    refused(musekit("lab"), "checkout")


def test_lab_opens_notebook_05(musekit, tmp_path, monkeypatch):
    notebook = tmp_path / "notebooks" / "05_latent_lab.ipynb"
    notebook.parent.mkdir()
    notebook.write_text("{}")
    seen = []

    def run(command):
        seen.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(lab, "__file__", str(tmp_path / "musekit" / "commands" / "lab.py"))
    monkeypatch.setattr(lab.subprocess, "run", run)
    assert musekit("lab", "--no-browser")[0] == 3
    large = '--ServerApp.tornado_settings={"websocket_max_message_size": 537919488}'  # or no upload above 10 MiB comes
    assert seen == [[sys.executable, "-m", "jupyterlab", large, "--no-browser", str(notebook)]]


# -- what generate refuses --------------------------------------------------------------------------------------

PIANO = ("a sad piano melody",)


@pytest.mark.parametrize(
    "words, said",
    [
        ([""], "prompt is empty"),
        ([" \t\n\u3000"], "prompt is empty"),
        (["\x00\x1b\x07\x7f\x85"], "prompt is empty"),
        (["\ud800\udfff"], "no English words"),  # bytes that are no text reach Python so
        (["\u200b\ufeff\u202e"], "no English words"),
        (["\U0001f3b9\U0001f3bb"], "no English words"),
        (["悲しいピアノ"], "no English words"),
        (["грустная мелодия"], "no English words"),
        (["1234 !?"], "no English words"),
        ([*PIANO, "--negative-prompt", " "], "negative prompt is empty"),
        ([*PIANO, "--seconds", "0"], "more than 0"),
        ([*PIANO, "--seconds", "-3"], "more than 0"),
        ([*PIANO, "--seconds", "nan"], "more than 0"),
        ([*PIANO, "--seconds", "inf"], "more than 0"),
        ([*PIANO, "--seconds", "0.001"], "too short"),
        ([*PIANO, "--seconds", "13"], "window of 12.03 s"),
        ([*PIANO, "--n", "0"], "1 or more"),
        ([*PIANO, "--n", "-1"], "1 or more"),
        ([*PIANO, "--n", "1000000000000"], "GiB"),
        ([*PIANO, "--seed", "-1"], "seed"),
        ([*PIANO, "--seed", str(2**63 - 2), "--n", "4"], "seed"),
        ([*PIANO, "--steps", "0"], "stage2_steps"),
        ([*PIANO, "--steps", "1000000"], "stage2_steps"),
        ([*PIANO, "--micro-batch", "0"], "micro_batch"),
        ([*PIANO, "--solver", "eulre"], "did you mean 'euler'?"),
        ([*PIANO, "--stage1-solver", "rk5"], "did you mean 'rk4'?"),
        ([*PIANO, "--guidance-scale", "nan"], "guidance_scale"),
        ([*PIANO, "--guidance-scale", "-1"], "guidance_scale"),
    ],
)
def test_what_cannot_be_generated_is_one_line(musekit, smoke_weights, tmp_path, words, said):
    refused(musekit("generate", "--weights", str(smoke_weights), "--out", "out", *words), said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mimi", "no/such/folder", "", "x" * 5000, "\x00"])
def test_unknown_weights_are_one_line(musekit, tmp_path, name):
    refused(musekit("generate", *PIANO, "--weights", name))
    assert not list(tmp_path.iterdir())


def damage(folder: Path, what: str) -> None:
    """One way for a folder of weights to be broken."""
    file, half = folder / "stage2.safetensors", folder / "codec.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if what == "missing part":
        file.unlink()
    elif what == "truncated part":
        half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    elif what == "empty part":
        file.write_bytes(b"")
    elif what == "tampered part":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif what == "swapped parts":
        shutil.copy(folder / "stage1.safetensors", file)
    elif what == "missing hashes":
        (folder / "weights.json").unlink()
    elif what == "hashes that are no table":
        (folder / "weights.json").write_text("[1, 2]")
    elif what == "hashes that are no text":
        (folder / "weights.json").write_bytes(b"\xff\xfe\x00")
    elif what == "config that is no text":
        (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    elif what == "config that is no table":
        (folder / "config.json").write_text("[]")
    elif what == "config cut short":
        (folder / "config.json").write_text(json.dumps(config)[:200])
    elif what == "config without a name":
        (folder / "config.json").write_text("{}")
    elif what == "config with an unknown field":
        config["stage2"]["widht"] = 32
        (folder / "config.json").write_text(json.dumps(config))
    elif what == "config of another shape":
        config["stage2"]["width"] = 64
        (folder / "config.json").write_text(json.dumps(config))
    elif what == "config with words for numbers":
        config["stage2"]["width"] = "wide"
        (folder / "config.json").write_text(json.dumps(config))
    elif what == "config of an unknown codec":
        config["codec"]["kind"] = "spectrul"
        (folder / "config.json").write_text(json.dumps(config))


DAMAGES = {
    "missing part": "stage2.safetensors is missing",
    "truncated part": "codec.safetensors is not the file",
    "empty part": "stage2.safetensors is not the file",
    "tampered part": "stage2.safetensors is not the file",
    "swapped parts": "stage2.safetensors is not the file",
    "missing hashes": "weights.json",
    "hashes that are no table": "weights.json",
    "hashes that are no text": "weights.json",
    "config that is no text": "config.json",
    "config that is no table": "config.json",
    "config cut short": "config.json",
    "config without a name": "config.json",
    "config with an unknown field": "did you mean 'width'?",
    "config of another shape": "config.json",
    "config with words for numbers": "config.json",
    "config of an unknown codec": "did you mean 'spectral'?",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_weights_are_one_line(musekit, smoke_weights, tmp_path, what):
    folder = tmp_path / "weights"
    shutil.copytree(smoke_weights, folder)
    damage(folder, what)
    refused(musekit("generate", *PIANO, "--weights", "weights", "--n", "1", "--seconds", "0.5"), DAMAGES[what])
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_weights_that_are_no_numbers_make_no_file(musekit, smoke_weights, tmp_path):
    """As of a training that went astray: one line, not a silent WAV."""
    from musekit import config, pretrained

    folder = shutil.copytree(smoke_weights, tmp_path / "weights")
    network = pretrained.load_part(folder, "stage2")[0]
    network.proj_out.weight.fill_(float("nan"))
    pretrained.save_part(folder, "stage2", network, config.smoke())
    words = ["a piano", "--n", "1", "--seconds", "0.5", "--weights", str(folder), "--out", str(tmp_path / "out")]
    refused(musekit("generate", *words), "is no sound (NaN)")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("out", ["taken", "taken/deeper", "x" * 300, "a\x00b", "/proc/musekit", "/dev/null/x"])
def test_an_output_folder_that_cannot_be_written_is_one_line(musekit, smoke_weights, tmp_path, out):
    (tmp_path / "taken").write_text("mine")
    refused(musekit("generate", *PIANO, "--weights", str(smoke_weights), "--out", out), "--out")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"] and (tmp_path / "taken").read_text() == "mine"


def test_an_unwritable_folder_is_told_before_anything_heavy_is_loaded(musekit, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setitem(sys.modules, "musekit.muse", None)  # importing it would now fail
    refused(musekit("generate", *PIANO, "--out", "taken"), "is a file")
