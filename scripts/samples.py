"""Make the README's samples: small MP3 files, and results/samples.json with the recipe of each (or: make samples).

Run it again when the packaged weights change; a test compares their hash with the recipes'.
"""

import argparse
import hashlib
import io
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = (  # prompt, seed: one sentence three times, then others
    ("a sad piano melody", 0),
    ("a sad piano melody", 1),
    ("a sad piano melody", 2),
    ("cheerful music for harpsichord", 0),
    ("a jazz trio in D minor at 140 BPM", 0),
    ("a folk song with drums", 0),
)
LEVEL = 0.62  # of libsndfile's MP3 encoder: about 90 kbit/s for such music, 130 kB for 12 s


def mp3(audio, sample_rate: int) -> bytes:
    """audio (2, N) at `sample_rate` Hz as an MP3 file of variable bit rate, which every browser plays."""
    import soundfile

    file = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": LEVEL, "bitrate_mode": "VARIABLE"}
    with soundfile.SoundFile(file, "w", sample_rate, audio.shape[0], **options) as out:
        out.write(audio.T.numpy())
    return file.getvalue()


def main() -> None:
    """Write `--out`/<prompt>-<seed>.mp3 for each of PROMPTS and remove the files of an earlier run."""
    from musekit.files import write_atomic
    from musekit.muse import Muse, Settings
    from musekit.recipe import file_stem
    from musekit.results import write_result

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="mini", help="a name that comes with the package, or a folder")
    parser.add_argument("--out", type=Path, default=ROOT / "samples", help="folder of the MP3 files")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of samples.json")
    args = parser.parse_args()
    muse, rows = Muse.from_pretrained(args.weights), []
    args.out.mkdir(parents=True, exist_ok=True)
    for piece in muse.stream([muse.recipe(prompt, seed, Settings()) for prompt, seed in PROMPTS]):
        content, recipe = mp3(piece.audio, piece.sample_rate), piece.recipe
        name = f"{file_stem(recipe.prompt)}-{recipe.seed}.mp3"
        write_atomic(args.out / name, content)
        row = {"measure": "sample", "file": name, "prompt": recipe.prompt, "seed": recipe.seed}
        row |= {"similarity": piece.similarity, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        rows.append(row | {"recipe": recipe.as_dict()})
        print(f"{name}  {len(content) / 1000:.0f} kB  similarity {piece.similarity:+.2f}")
    for old in {p.name for p in args.out.glob("*.mp3")} - {row["file"] for row in rows}:
        (args.out / old).unlink()
    write_result("samples", rows, args.results, "musekit.muse")


if __name__ == "__main__":
    main()
