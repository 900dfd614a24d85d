"""The command line: every error is one clear line with exit code 2, and no file is left half-written."""

import contextlib
import dataclasses
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from musekit import __version__, cli, cluster, commands, distributed
from musekit.config import MuseError
from musekit.launch import launch


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


def test_a_job_on_a_node_whose_gpus_torch_does_not_see_ends_at_once(musekit, tiny, monkeypatch):
    """MUSEKIT_GPUS is what slurm/job.sh requested; hours on a CPU would be billed as hours of a GPU."""
    monkeypatch.setenv("MUSEKIT_GPUS", "4096")
    for words in (["cache", "--preset", "smoke"], ["generate", "a piano", "--weights", str(tiny.weights)]):
        refused(musekit(*words), "4096 GPUs are required and torch sees")


def test_the_check_of_a_cluster_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MUSEKIT_HOME", str(tmp_path))
    for name, value in {"ROOM": 0.0, "FLUSH": 60.0}.items():
        monkeypatch.setattr(cluster, name, value)
    cluster.check_cluster()
    said = capsys.readouterr().out
    assert "1 processes on 1 machines" in said and "WRONG" not in said and not list(tmp_path.iterdir())
    monkeypatch.setattr(cluster, "ROOM", 1e9)
    monkeypatch.setattr(cluster, "gpu", lambda: {"driver": "535.1", "gpu": ""})
    with pytest.raises(MuseError, match="2 lines above"):
        cluster.check_cluster()
    said = capsys.readouterr().out
    assert "driver 535.1 is too old" in said and "set MUSEKIT_HOME" in said
    lines: list[str] = []
    with contextlib.suppress(MuseError):  # this disk may be a small one
        launch(["info", "--cluster"], 2, lines.append)
    assert any(line.startswith("2 processes") for line in lines) and any("GB/s per rank" in line for line in lines)


def test_devices_are_told_with_their_precision_and_a_gpu_too_old_for_torch_is_refused_by_name(monkeypatch, capsys):
    cli.main(["info", "--devices"])
    assert re.search(r"cpu: .* products in (float32|bfloat16) \(float32 [\d.]+ TFLOP/s", capsys.readouterr().out)
    volta = {"is_available": True, "device_count": 1, "get_device_capability": (7, 0), "get_device_name": "Tesla V100"}
    for name, value in volta.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_100", "sm_90a", "compute_120"])
    with pytest.raises(MuseError, match="Tesla V100 is too old for this torch .* capability 7.5"):
        distributed.check_gpus()
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_75"])
    distributed.check_gpus()


@pytest.mark.parametrize(
    "words, said",
    [
        (["genrate", "a piano"], "did you mean 'generate'?"),
        ([], "musekit generate"),
        (["generate"], "PROMPT"),
        (["generate", "--stepz", "3", "a piano"], "Perhaps you meant: --steps"),
        (["generate", "--n", "2.5", "a piano"], "'2.5'"),
        (["generate", "--metre", "3/4", "a piano"], "--metre must be of type INT, not '3/4'"),
        (["generate", "--n", "x" * 100_000, "a piano"], "--n"),
        (["generate", "a", "sad", "piano"], "quotes"),
        (["generate", "-sad piano"], 'after "--"'),
        (["train", "codecs"], "did you mean 'codec'?"),
        (["train"], "PART"),
        (["train", "codec", "--lr", "1"], "Perhaps you meant: --train.lr"),
        (["cache", "--n", "-5"], "--n must be 1 or more, not -5"),
        (["cache", "--data", "."], "does not hold a known dataset. Looked for musicbench: MusicBench_train.json"),
        (["cache", "--data", ".", "--seconds", "0.1"], "clips last from 1 to 600 s"),
        (["cache", "--corpus", "nothing-here", "--kinds", "tokens"], "clips.jsonl is missing"),
        (["bench", "stage1", "--weights", "mini"], "leave --weights out"),
        (["eval", "prompts", "--n", "0"], "must be 2 or more"),
        (["info", "mimi"], "did you mean 'mini'?"),
    ],
)
def test_a_wrong_argument_is_one_line(musekit, words, said):
    refused(musekit(*words), said)


def test_an_error_is_one_write():
    """The ranks of a run share its log."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a packet for each write
    subprocess.run([sys.executable, "-u", "-m", "musekit", "nonsense"], stderr=theirs)
    assert re.fullmatch(rb"musekit: .*\n", ours.recv(999))


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_help_has_an_example_and_describes_every_option(musekit, command):
    code, out, err = musekit(command, "--help")
    assert (code, err) == (0, "") and f"    musekit {command}" in out.split("For example", 1)[1]
    for field in dataclasses.fields(commands.COMMANDS[command]):
        if field.name not in ("train", "prompt", "part", "what", "preset", "options"):
            name = field.name.replace("_", "-")
            assert re.search(rf"--{name}\b[ │A-Z{{}},a-z0-9-]*[A-Za-z\"]", out.replace("\n", " ")), name


def test_help_names_every_command_and_eval_every_measurement(musekit):
    from musekit.evaluate import MEASUREMENTS

    code, out, _ = musekit("--help")
    assert code == 0 and all(re.search(rf"• {name} ", out) for name in commands.COMMANDS)
    assert musekit("--version") == (0, f"musekit {__version__}\n", "")
    code, out, err = musekit("eval")
    assert (code, err) == (0, "") and all(what in out for what in (*MEASUREMENTS, "gallery"))


def test_help_comes_without_torch():
    """Importing torch takes 2 s."""
    code = f"""
import sys
from musekit import cli
for words in [["--help"], *([c, "--help"] for c in {list(commands.COMMANDS)}), ["train", "stage2", "--help"],
              ["generate", "--stepz", "1"], ["generate", "--prompts", "gone.txt"]]:
    try:
        cli.main(words)
    except SystemExit:
        pass
    assert not {{"torch", "numpy", "matplotlib", "music21"}} & set(sys.modules), words
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(cli.__file__).parents[1])


def test_the_training_defaults_are_those_of_the_part_and_the_preset(musekit):
    def learning_rate(*words):
        out = " ".join(musekit("train", *words, "--help")[1].split())
        return re.search(r"--train.lr FLOAT \(default: ([^)]*)\)", out)[1]

    assert learning_rate("stage2") == learning_rate("--preset", "smoke", "stage2") == "0.001"
    assert learning_rate("stage2", "--preset", "paper") == "0.0001"
    assert learning_rate("stage2", "--preset", "paper", "--init", "stabilityai/stable-audio-open-1.0") == "5e-05"
    given = cli.parse(["train", "stage2", "--train.lr=1", "--train.no_bf16"]).train
    assert (given.lr, given.bf16, given.samples) == (1.0, False, 360_000)


def test_words_after_two_dashes_are_no_options(monkeypatch):
    seen = []
    monkeypatch.setattr(commands.Generate, "run", lambda self: seen.append((self.prompt, self.n)))
    for prompt in ("-sad piano", "--steps", "-5", "--", ""):
        cli.main(["generate", "--n", "2", "--", prompt])
    assert seen == [("-sad piano", 2), ("--steps", 2), ("-5", 2), ("--", 2), ("", 2)]


def test_an_interrupt_says_how_to_go_on(musekit, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.Generate, "run", stop)
    code, _, err = musekit("generate", "a piano")
    assert code == 130 and "same command" in err and err.count("\n") == 1


PIANO = ("a sad piano melody",)


@pytest.mark.parametrize(
    "words, said",
    [
        ([""], "prompt is empty"),
        (["\x00\x1b\x07\x7f\x85"], "prompt is empty"),
        (["\ud800\udfff"], "no English words"),  # bytes that are not text
        (["悲しいピアノ 12 \U0001f3b9"], "no English words"),
        ([*PIANO, "--negative-prompt", " "], "negative prompt is empty"),
        ([*PIANO, "--seconds", "0"], "seconds cannot be 0.0 (expected `float` > 0.0)"),
        ([*PIANO, "--seconds", "nan"], "seconds"),
        ([*PIANO, "--seconds", "0.001"], "too short"),
        ([*PIANO, "--start", "1", "--stop", "2"], "give it with --repaint FILE"),
        ([*PIANO, "--melody", "none.mid"], "give a MIDI file, or a recording of one voice"),
        ([*PIANO, "--seconds", "13"], "window of 12.02 s"),
        ([*PIANO, "--n", "1000000000000"], "MiB"),
        ([*PIANO, "--seed", str(2**63 - 2), "--n", "4"], "seed"),
        ([*PIANO, "--steps", "1000000"], "stage2_steps"),
        ([*PIANO, "--solver", "eulre"], "did you mean 'euler'?"),
        ([*PIANO, "--guidance-scale", "-1"], "guidance_scale"),
    ],
)
def test_what_cannot_be_generated_is_one_line(musekit, smoke_weights, tmp_path, words, said):
    refused(musekit("generate", "--weights", str(smoke_weights), "--out", "out", *words), said)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", ["mimi", "x" * 5000, "\x00"])
def test_unknown_weights_are_one_line(musekit, tmp_path, name):
    refused(musekit("generate", *PIANO, "--weights", name))
    assert not list(tmp_path.iterdir())


def wider(data: bytes) -> bytes:
    """A config.json whose Stage 2 has another width than its weights."""
    config = json.loads(data)
    config["stage2"]["width"] = 64
    return json.dumps(config).encode()


ALTERED = "is not the file that weights.json names"
DAMAGES = {  # the file, its new content (None: deleted), and what the error says
    "missing part": ("stage2.safetensors", None, "stage2.safetensors is missing"),
    "altered part": ("stage1.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), ALTERED),
    "missing hashes": ("weights.json", None, "weights.json"),
    "hashes of the wrong type": ("weights.json", lambda data: b"[1, 2]", "weights.json"),
    "truncated config": ("config.json", lambda data: data[:200], "config.json"),
    "another shape": ("config.json", wider, "does not fit"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_weights_are_one_line(musekit, smoke_weights, tmp_path, what):
    folder, (name, edit, says) = shutil.copytree(smoke_weights, tmp_path / "weights"), DAMAGES[what]
    path = folder / name
    path.unlink() if edit is None else path.write_bytes(edit(path.read_bytes()))
    refused(musekit("generate", *PIANO, "--weights", "weights", "--n", "1", "--seconds", "0.5"), says)
    assert not list(tmp_path.glob("demo/*"))


def test_audio_that_is_nan_is_refused_and_makes_no_file(musekit, smoke_weights, tmp_path):
    """As after a training that diverged."""
    from musekit import config, pretrained

    folder = shutil.copytree(smoke_weights, tmp_path / "weights")
    network = pretrained.load_part(folder, "stage2")[0]
    network.proj_out.weight.fill_(float("nan"))
    pretrained.save_part(folder, "stage2", network, config.smoke())
    words = ["a piano", "--n", "1", "--seconds", "0.5", "--weights", str(folder), "--out", str(tmp_path / "out")]
    refused(musekit("generate", *words), "is NaN")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("out", ["taken/deeper", "x" * 300, "a\x00b", "/proc/musekit"])
def test_an_output_folder_that_cannot_be_written_is_one_line(musekit, smoke_weights, tmp_path, out):
    (tmp_path / "taken").write_text("mine")
    refused(musekit("generate", *PIANO, "--weights", str(smoke_weights), "--out", out), "--out")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"] and (tmp_path / "taken").read_text() == "mine"
