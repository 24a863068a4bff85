"""`t2f-dist configs`, `sample` and `evaluate`: what is trained, and what it draws."""

from pathlib import Path

import click

from t2f_dist.cli.words import counted

_CACHE_DIR = click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Of remote shards.  [default: in ~/.cache]"
)
_CACHE_BYTES = click.option("--cache-bytes", type=click.IntRange(1), help="Of them at most.  [default: 50 GB]")


@click.command(short_help="List the configurations, a line each.")
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


@click.command(short_help="Draw faces for captions, voices or identities.")
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
@click.option("--shards", metavar="DIR_OR_URL", help="Draw for samples in shards instead.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--rows", default=8, show_default=True, type=click.IntRange(1), help="Samples of --shards.")
@_CACHE_DIR
@_CACHE_BYTES
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
    shards: str | None,
    split: str,
    rows: int,
    cache_dir: Path | None,
    cache_bytes: int | None,
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
    from t2f_dist.evaluation.held import cache_of
    from t2f_dist.evaluation.sample import check_size, check_suffix, faces_a_row, find_voices, read_captions, save
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
    conditions = Conditions(loaded, embed, cache_of(cache_dir, cache_bytes))
    if embed is not None and wanted["caption"]:
        click.echo(f"loading {embed}", err=True)  # for some seconds
    asked = conditions.asked(wanted, found) if shards is None else conditions.of_shards(shards, split, rows)
    faces, note = faces_a_row(loaded, asked, num)
    for line in (*asked.notes, *([note] if note else [])):
        click.echo(line, err=True)
    if not as_folder:
        check_size(asked, faces, loaded.resolution)
    images = draw(loaded, conditions, asked, faces, seed)
    paths = save(images, asked, Path(out), as_folder)
    shown = str(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures in {Path(out)}"
    faces_drawn = counted(len(images), "face")
    click.echo(f"{shown}: {faces_drawn} of {loaded.resolution} pixels, at {loaded.images_seen:,} images")


@click.command(short_help="Measure how well faces match captions and voices.")
@click.argument("snapshot", metavar="RUN_OR_SNAPSHOT", type=click.Path(path_type=Path))
@click.option(
    "--by",
    default="all",
    show_default=True,
    type=click.Choice(["caption", "speech", "both", "all"]),
    help="What each face is drawn from; all: a table for each way in which the snapshot can be asked.",
)
@click.option(
    "--shards", metavar="DIR_OR_URL", help="Of drawn portraits.  [default: those trained on, if on this disk]"
)
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--num", default=2000, show_default=True, type=click.IntRange(2), help="Samples, at most.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Of the noise and the order."
)
@_CACHE_DIR
@_CACHE_BYTES
@click.option("--out", type=click.Path(path_type=Path), help="Also write the tables there, as JSON.")
def evaluate(
    snapshot: Path,
    by: str,
    shards: str | None,
    split: str,
    num: int,
    seed: int,
    cache_dir: Path | None,
    cache_bytes: int | None,
    out: Path | None,
) -> None:
    """Agreement on drawn portraits: the share of faces whose attributes are those that their caption names, and those
    that it does not name but the portrait has, which a voice may tell.

    Attributes are read from pixels by a reader that training never sees, for combinations of attributes that training
    never saw; beside it the share by chance, and that of real portraits.
    """
    import json

    from t2f_dist.evaluation.held import cache_of
    from t2f_dist.evaluation.portraits import evaluate as agreement
    from t2f_dist.models.snapshot import load
    from t2f_dist.storage import url

    loaded = load(snapshot)
    where = shards or loaded.config.data.shards
    place = url.shown(where)
    if shards is None and url.is_url(where):
        raise ValueError(
            f"the snapshot says that it was trained on {place}: give --shards, with that or another place; no server is"
            " asked for something because a snapshot names it"
        )
    if shards is None:
        click.echo(f"shards: {place}, as the snapshot says", err=True)
    found = agreement(loaded, where, split, num, seed, by, cache_of(cache_dir, cache_bytes))
    seen = "which training sees" if split == "train" else "no combination of which stands in its training split"
    for way, table in found.items():
        asked = "caption and speech" if way == "both" else f"{way} alone"
        click.echo(f"from {asked}: {table.num_samples} samples of the {split} split of {place}, {seen}")
        click.echo(table.format())
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        content = {"images_seen": loaded.images_seen, "resolution": loaded.resolution, "split": split, "seed": seed}
        tables = {way: table.to_dict() for way, table in found.items()}
        out.write_text(json.dumps(content | {"by": tables}, indent=1) + "\n")
