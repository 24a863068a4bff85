"""`t2f-dist verify` and `t2f-dist inspect`: what shards hold, and whether they still do."""

from pathlib import Path

import click


@click.command(short_help="Re-read shards against their manifest.")
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


@click.command(short_help="Count what shards hold, and draw a contact sheet.")
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
