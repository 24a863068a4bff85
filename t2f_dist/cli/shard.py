"""`t2f-dist demo` and `t2f-dist shard`: a raw corpus, and the shards made of it."""

from pathlib import Path
from typing import Any, Literal

import click

from t2f_dist.cli.words import cores, counted


@click.command(short_help="Draw a corpus of portraits with captions and voices.")
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

    drawn = write_corpus(out, num, resolution, seed, cores(workers), voices=voices, overwrite=overwrite)
    spoken = " and speech.csv with a voice each" if voices else ""
    click.echo(
        f"{out}: {counted(num, 'portrait')} of {resolution} pixels{'' if drawn else ', there already'}: faces/,"
        f" captions.jsonl with {CAPTIONS_EACH} captions each{spoken}"
    )
    command = ["t2f-dist", "shard", "--faces", f"{out}/faces", "--captions", f"{out}/captions.jsonl"]
    command += ["--speech", f"{out}/speech.csv"] if voices else []
    size = 1 << resolution.bit_length() - 1  # the power of two that is not above it
    command += ["--identity", "column", "--format", "png", "--resolution", f"{size}"]
    click.echo(f"next: {shlex.join([*command, '--out', f'shards/{out.resolve().name}'])}")


@click.command(short_help="Turn faces, captions and voices into shards.")
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
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the shards in --out. The old ones are removed before the new are made, once an image of train has "
    "been found to be usable.",
)
@click.option("--extend", is_flag=True, help="Add what is new in the corpus to the finished shards in --out.")
@click.option(
    "--engine",
    default="process",
    show_default=True,
    type=click.Choice(["process", "ray"]),
    help="Who makes the shards: processes of this machine, or a Ray cluster (of RAY_ADDRESS, else a local one).",
)
@click.option(
    "--retries", default=2, show_default=True, type=click.IntRange(0), help="More tries for a shard that fails."
)
@click.option("--part", metavar="I/N", help="Make only the I-th of N shares of the shards, from 0/N to N-1/N.")
def shard(
    recipe: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    overwrite: bool,
    extend: bool,
    engine: Literal["process", "ray"],
    retries: int,
    part: str | None,
    **flags: Any,
) -> None:
    """Turn a raw corpus into shards: from a RECIPE.yaml, from flags, or from both (flags win).

    \b
    t2f-dist shard --faces lfw --captions clean.json --out shards/lfw --resolution 64
    t2f-dist shard shards/recipes/lfw_face2text.yaml --set image.resolution=64

    The bytes depend on the corpus and the recipe alone, not on --workers, --engine or --part. The same command goes
    on after an interruption. What cannot be used is recorded with its reason in OUT/rejected.jsonl. shards/README.md
    describes the recipe and the format.
    """
    from t2f_dist.config.load import override, read_yaml, resolve
    from t2f_dist.config.recipe import ShardRecipe
    from t2f_dist.shard.build import make
    from t2f_dist.shard.manner import Manner
    from t2f_dist.storage.url import shown

    mapping = read_yaml(recipe) if recipe else {}
    for flag, key in _SHARD_FLAGS.items():
        if flags[flag] is not None:
            _place(mapping, key, flags[flag])
    resolved = resolve(ShardRecipe, override(mapping, overrides), source=recipe or "t2f-dist shard")
    share = None if part is None else _share(part)
    manner = Manner(cores(workers), overwrite, extend, engine, retries, share)
    report = make(resolved, manner)
    made = f"{counted(report.written, 'shard')} written, {report.kept} kept from before, 0 failed"
    manifest = report.manifest
    if manifest is None:
        click.echo(
            f"part {part}: {made}; {counted(report.open, 'shard')} of other parts to come: the last part that ends"
            " writes the manifest"
        )
        return
    for kind, total in manifest.totals.items():
        click.echo(
            f"{kind}: {total.found} found = {total.stored} stored + {total.rejected} rejected "
            f"+ {total.unmatched} unmatched"
        )
    if manifest.duplicates is not None:
        dropped = ", left out" if resolved.duplicates == "drop" else ""
        click.echo(f"duplicates: {counted(manifest.duplicates, 'image')} of the same bytes as another{dropped}")
    counts = ", ".join(f"{split} {manifest.num_samples(split)}" for split in manifest.splits)
    click.echo(f"{shown(resolved.out)}: {counts}; `t2f-dist inspect {shown(resolved.out)} --out sheet.png` shows them")
    click.echo(report.note or made)


def _share(part: str) -> tuple[int, int]:
    number, slash, parts = part.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and number.isascii() and parts.isascii()):
        raise ValueError(f"--part {part}: expected I/N with 0 <= I < N, such as 0/8 to 7/8")
    return int(number), int(parts)


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


def _place(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    section, _, key = dotted.rpartition(".")
    if section:
        nested = mapping.get(section)
        mapping[section] = {**nested, key: value} if isinstance(nested, dict) else {key: value}
    else:
        mapping[key] = value
