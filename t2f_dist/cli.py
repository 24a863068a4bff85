"""The command `t2f-dist`: parse, call one function, print.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Any

import click


class Commands(click.Group):
    """Commands whose errors of input are one line and exit code 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            if ctx.params["traceback"]:
                raise
            click.echo(f"error: {_line(error)}", err=True)
            ctx.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of use, not of the alphabet


def _line(error: Exception) -> str:
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(message.split()) or type(error).__name__


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="t2f-dist")
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")
def main(traceback: bool) -> None:
    """Faces, captions and voices into shards; snapshots into faces.

    Training is started by accelerate: accelerate launch -m t2f_dist.train --config CONFIG.
    """


@main.command(short_help="Draw a corpus of portraits with captions and voices.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; made if missing.")
@click.option("--num", default=12_000, show_default=True, type=click.IntRange(1), help="Portraits.")
@click.option("--resolution", default=32, show_default=True, type=click.IntRange(8, 1024), help="Pixels a side.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The same seed, the same bytes.")
@click.option("--workers", default=None, type=click.IntRange(1), help="Processes.  [default: one a CPU core]")
@click.option("--voices/--no-voices", default=True, show_default=True, help="Speak for each portrait too.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote to --out.")
def demo(out: Path, num: int, resolution: int, seed: int, workers: int | None, voices: bool, overwrite: bool) -> None:
    """Draw a corpus of portraits with captions and voices, from nothing but a seed.

    It has the layout of a raw corpus, so that `t2f-dist shard` takes it like any other:

    \b
    t2f-dist demo --out data/portraits
    t2f-dist shard shards/recipes/portraits.yaml --out shards/portraits
    """
    import shlex

    from t2f_dist.portraits.corpus import CAPTIONS_EACH, write_corpus

    drawn = write_corpus(out, num, resolution, seed, _cores(workers), voices=voices, overwrite=overwrite)
    spoken = " and speech.csv with a voice each" if voices else ""
    click.echo(
        f"{out}: {_counted(num, 'portrait')} of {resolution} pixels{'' if drawn else ', there already'}: faces/,"
        f" captions.jsonl with {CAPTIONS_EACH} captions each{spoken}"
    )
    command = ["t2f-dist", "shard", "--faces", f"{out}/faces", "--captions", f"{out}/captions.jsonl"]
    command += ["--speech", f"{out}/speech.csv"] if voices else []
    size = 1 << resolution.bit_length() - 1  # the power of two that is not above it
    command += ["--identity", "column", "--format", "png", "--resolution", f"{size}"]
    click.echo(f"next: {shlex.join([*command, '--out', f'shards/{out.resolve().name}'])}")


@main.command(short_help="Turn faces, captions and voices into shards.")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--layout",
    metavar="NAME",
    help="How the corpus stands on the disk: folder, cub, hdf5, celeba, wav2pix or webdataset.  [default: folder]",
)
@click.option("--faces", metavar="DIR", help="Folder of images, with any folders in it.")
@click.option(
    "--captions",
    metavar="FILE_OR_DIR",
    help="Face2Text .json; .csv, .tsv or .jsonl with columns image and caption; or a folder of .txt named as the "
    "images, a caption a line.",
)
@click.option(
    "--speech",
    metavar="FILE_OR_DIR",
    help=".csv, .tsv or .jsonl with columns image and audio (paths relative to the file); or a folder of audio files "
    "named as the images.",
)
@click.option(
    "--embed", metavar="DIR", help="Local sentence-transformers model; each caption's embedding is stored beside it."
)
@click.option("--out", metavar="DIR", help="Folder to write; made if missing.")
@click.option("--resolution", type=int, help="Pixels a side, a power of two.  [default: 128]")
@click.option("--fit", type=click.Choice(["crop", "pad", "stretch"]), help="How to square a picture.  [default: crop]")
@click.option("--crop-fraction", type=float, help="Central share of the picture to keep.  [default: 1.0]")
@click.option("--allow-upscale", is_flag=True, default=None, help="Keep images smaller than the resolution.")
@click.option("--format", "image_format", type=click.Choice(["jpg", "png"]), help="Of stored images.  [default: jpg]")
@click.option(
    "--identity",
    metavar="RULE",
    help="Who is shown, so that none is on two sides of the split: auto, column, folder, stem, or a regular "
    "expression whose group finds it in the path.  [default: auto: column, else folder, else stem]",
)
@click.option("--sample-rate", "sample_rate_hz", type=int, help="Hz of stored voices.  [default: 16000]")
@click.option("--max-seconds", type=float, help="Voices are cut there.  [default: 10.0]")
@click.option("--validation", type=float, help="Share of identities held back.  [default: 0.05]")
@click.option("--test", type=float, help="Share of identities held back.  [default: 0.05]")
@click.option("--seed", type=int, help="Of the order of samples.  [default: 0]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any field of the recipe; repeatable.")
@click.option("--workers", default=None, type=click.IntRange(1), help="Processes.  [default: one a CPU core]")
@click.option("--overwrite", is_flag=True, help="Replace finished shards in --out.")
def shard(recipe: Path | None, overrides: tuple[str, ...], workers: int | None, overwrite: bool, **flags: Any) -> None:
    """Turn a raw corpus into shards: from a RECIPE.yaml, from flags, or from both (flags win).

    \b
    t2f-dist shard --faces lfw --captions clean.json --out shards/lfw --resolution 64
    t2f-dist shard shards/recipes/lfw_face2text.yaml --set image.resolution=64

    The bytes depend on the corpus and the recipe alone, not on --workers. What cannot be used is recorded with its
    reason in OUT/rejected.jsonl. shards/README.md describes the recipe and the format.
    """
    from t2f_dist.config.load import override, read_yaml, resolve
    from t2f_dist.config.recipe import ShardRecipe
    from t2f_dist.shard.build import build

    mapping = read_yaml(recipe) if recipe else {}
    for flag, key in _SHARD_FLAGS.items():
        if flags[flag] is not None:
            _place(mapping, key, flags[flag])
    resolved = resolve(ShardRecipe, override(mapping, overrides), source=recipe or "t2f-dist shard")
    manifest = build(resolved, _cores(workers), overwrite)
    for kind, total in manifest.totals.items():
        click.echo(
            f"{kind}: {total.found} found = {total.stored} stored + {total.rejected} rejected "
            f"+ {total.unmatched} unmatched"
        )
    counts = ", ".join(f"{split} {manifest.num_samples(split)}" for split in manifest.splits)
    click.echo(f"{resolved.out}: {counts}; `t2f-dist inspect {resolved.out} --out sheet.png` shows them")


# The flags of `shard`, and the fields of the recipe that they fill.
_SHARD_FLAGS = {
    "layout": "layout",
    "faces": "faces",
    "captions": "captions",
    "speech": "speech",
    "embed": "embed",
    "out": "out",
    "resolution": "image.resolution",
    "fit": "image.fit",
    "crop_fraction": "image.crop_fraction",
    "allow_upscale": "image.allow_upscale",
    "image_format": "image.format",
    "identity": "identity",
    "sample_rate_hz": "audio.sample_rate_hz",
    "max_seconds": "audio.max_seconds",
    "validation": "split.validation",
    "test": "split.test",
    "seed": "seed",
}


@main.command(short_help="Re-read shards against their manifest.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--decode", is_flag=True, help="Decode every image, voice and embedding too; slower.")
def verify(directory: Path, decode: bool) -> None:
    """Re-read the shards in DIRECTORY against their manifest; exit 1 if anything is damaged."""
    from t2f_dist.shard.format import Manifest
    from t2f_dist.shard.verify import verify as verify_shards

    damage = verify_shards(directory, decode)
    for found in damage:
        click.echo(str(found))
    if damage:
        raise ValueError(f"{directory}: {len(damage)} damaged; copy these files again, or build the shards again")
    totals = Manifest.load(directory).splits
    click.echo(
        f"{directory}: all {sum(split.num_samples for split in totals.values())} samples in "
        f"{sum(len(split.shards) for split in totals.values())} shards are as they were written"
    )


@main.command(short_help="Count what shards hold, and draw a contact sheet.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Also draw a contact sheet there (.png, .jpg).")
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--num", default=24, show_default=True, type=click.IntRange(1), help="Faces on the sheet.")
@click.option("--columns", default=6, show_default=True, type=click.IntRange(1), help="Faces in a row.")
def inspect(directory: Path, out: Path | None, split: str, num: int, columns: int) -> None:
    """Count what the shards in DIRECTORY hold; with --out, draw faces with their captions."""
    from t2f_dist.shard.sheet import sheet, table

    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--out {out}: end it with .png, .jpg, .jpeg or .webp")
    click.echo(table(directory))
    if out is not None:
        page = sheet(directory, split, num, columns)
        out.parent.mkdir(parents=True, exist_ok=True)
        page.save(out)
        click.echo(f"{out}: {page.width}x{page.height}")


@main.command(short_help="List the configurations, a line each.")
@click.argument("folder", default="configs", type=click.Path(path_type=Path))
def configs(folder: Path) -> None:
    """List the configurations in FOLDER: condition, network, resolution, images and what each trains.

    Train one with: accelerate launch -m t2f_dist.train --config FOLDER/NAME.yaml; add --dry-run to see its plan.
    """
    from t2f_dist.config.catalogue import catalogue

    entries = catalogue(folder)
    width = max(len(entry.path.stem) for entry in entries)
    for entry in entries:
        click.echo(entry.line(width))


@main.command(short_help="Draw faces for captions, voices or identities.")
@click.argument("snapshot", metavar="RUN_OR_SNAPSHOT", type=click.Path(path_type=Path))
@click.option("--caption", "texts", multiple=True, metavar="TEXT", help="What the face is like; repeatable.")
@click.option("--captions", "file", type=click.Path(path_type=Path), help="File of captions, one a line.")
@click.option("--voice", "voices", multiple=True, metavar="FILE", help="Who speaks (wav, flac, ogg, mp3); repeatable.")
@click.option(
    "--voices",
    "voice_folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of voices, with any folders in it.",
)
@click.option("--identity", "identities", multiple=True, metavar="NAME", help="Who it is; repeatable.")
@click.option("--embed", metavar="DIR", type=click.Path(path_type=Path), help="Model that embedded the captions.")
@click.option("--shards", metavar="DIR", type=click.Path(path_type=Path), help="Draw for samples in shards instead.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--rows", default=8, show_default=True, type=click.IntRange(1), help="Samples of --shards.")
@click.option("--num", type=click.IntRange(1), help="Faces a condition.  [default: 8]")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="The same seed, the same faces."
)
@click.option("--out", required=True, metavar="FILE_OR_DIR/", help="A grid (grid.png), or with / single pictures.")
def sample(
    snapshot: Path,
    texts: tuple[str, ...],
    file: Path | None,
    voices: tuple[str, ...],
    voice_folder: Path | None,
    identities: tuple[str, ...],
    embed: Path | None,
    shards: Path | None,
    split: str,
    rows: int,
    num: int | None,
    seed: int,
    out: str,
) -> None:
    """Draw faces, from the newest snapshot of a run or from a snapshot's file.

    \b
    t2f-dist sample runs/demo/run --caption "a smiling woman with red hair" --out grid.png
    t2f-dist sample faces.safetensors --captions captions.txt --num 1 --out faces/
    t2f-dist sample runs/both/run --captions captions.txt --voices voices/ --out grid.png

    A row is a caption, a voice or an identity, and columns differ by noise. With captions and voices, a row is a
    caption and a column a voice.
    """
    from t2f_dist.evaluation.conditions import Conditions
    from t2f_dist.evaluation.sample import check_suffix, faces_a_row, find_voices, read_captions, save
    from t2f_dist.evaluation.sample import sample as draw
    from t2f_dist.models.snapshot import load

    as_folder = out.endswith("/") or Path(out).is_dir()
    if not as_folder:
        check_suffix(Path(out))
    found = find_voices(voice_folder) if voice_folder else {}
    wanted = {
        "caption": [*texts, *(read_captions(file) if file else ())],
        "speech": [*voices, *found],
        "identity": list(identities),
    }
    if shards is not None and any(wanted.values()):
        raise ValueError("--shards brings its own conditions: leave out --caption, --voice and --identity, or --shards")
    loaded = load(snapshot)
    conditions = Conditions(loaded, embed)
    if embed is not None and wanted["caption"]:
        click.echo(f"loading {embed}", err=True)  # for some seconds
    asked = conditions.asked(wanted, found) if shards is None else conditions.of_shards(shards, split, rows)
    faces, note = faces_a_row(loaded, asked, num)
    for line in (*asked.notes, *([note] if note else [])):
        click.echo(line, err=True)
    images = draw(loaded, conditions, asked, faces, seed)
    paths = save(images, asked, Path(out), as_folder)
    shown = str(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures in {Path(out)}"
    faces_drawn = _counted(len(images), "face")
    click.echo(f"{shown}: {faces_drawn} of {loaded.resolution} pixels, at {loaded.images_seen:,} images")


@main.command(short_help="Measure how well faces match captions and voices.")
@click.argument("snapshot", metavar="RUN_OR_SNAPSHOT", type=click.Path(path_type=Path))
@click.option(
    "--by",
    default="all",
    show_default=True,
    type=click.Choice(["caption", "speech", "both", "all"]),
    help="What each face is drawn from; all: a table for each way in which the snapshot can be asked.",
)
@click.option("--shards", type=click.Path(path_type=Path), help="Of drawn portraits.  [default: those trained on]")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--num", default=2000, show_default=True, type=click.IntRange(2), help="Samples, at most.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Of the noise and the order."
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the tables there, as JSON.")
def evaluate(snapshot: Path, by: str, shards: Path | None, split: str, num: int, seed: int, out: Path | None) -> None:
    """Agreement on drawn portraits: the share of faces whose attributes are those that their caption names, and those
    that it does not name but the portrait has, which a voice may tell.

    Attributes are read from pixels by a reader that training never sees, for combinations of attributes that training
    never saw; beside it the share by chance, and that of real portraits.
    """
    import json

    from t2f_dist.evaluation.portraits import evaluate as agreement
    from t2f_dist.models.snapshot import load

    loaded = load(snapshot)
    where = shards or Path(loaded.config.data.shards)
    found = agreement(loaded, where, split, num, seed, by)
    seen = "which training sees" if split == "train" else "no combination of which stands in its training split"
    for way, table in found.items():
        asked = "caption and speech" if way == "both" else f"{way} alone"
        click.echo(f"from {asked}: {table.num_samples} samples of the {split} split of {where}, {seen}")
        click.echo(table.format())
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        content = {"images_seen": loaded.images_seen, "resolution": loaded.resolution, "split": split, "seed": seed}
        tables = {way: table.to_dict() for way, table in found.items()}
        out.write_text(json.dumps(content | {"by": tables}, indent=1) + "\n")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cores(workers: int | None) -> int:
    import os

    return workers or len(os.sched_getaffinity(0))


def _place(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    section, _, key = dotted.rpartition(".")
    if section:
        nested = mapping.get(section)
        mapping[section] = {**nested, key: value} if isinstance(nested, dict) else {key: value}
    else:
        mapping[key] = value


if __name__ == "__main__":
    main()
