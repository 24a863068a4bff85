"""`t2f-dist verify` and `t2f-dist inspect`: what shards hold, and whether they still do."""

from pathlib import Path

import click

from t2f_dist.cli.words import cores, counted


@click.command(short_help="Re-read shards against their manifest.")
@click.argument("directory", metavar="DIRECTORY_OR_URL")
@click.option(
    "--decode", is_flag=True, help="Decode every image, voice and embedding too, and compare the small levels; slower."
)
@click.option("--workers", default=None, type=click.IntRange(1), help="Processes.  [default: one a CPU core]")
def verify(directory: str, decode: bool, workers: int | None) -> None:
    """Re-read the shards in DIRECTORY against their manifest; exit 1 if anything is damaged."""
    from t2f_dist.inspection.verify import unfinished
    from t2f_dist.inspection.verify import verify as verify_shards
    from t2f_dist.shard.manifest import SPLITS, Manifest

    damage = verify_shards(directory, decode, cores(workers))
    for found in damage:
        click.echo(str(found))
    if note := unfinished(directory):
        click.echo(note, err=True)
    if damage:
        raise ValueError(f"{directory}: {len(damage)} damaged; copy these files again, or build the shards again")
    manifest = Manifest.load(directory)
    samples = counted(sum(map(manifest.num_samples, SPLITS)), "sample")
    shards = counted(sum(len(manifest.shards(split)) for split in SPLITS), "shard")
    click.echo(f"{directory}: all {samples} in {shards} are as they were written")


@click.command(short_help="Count what shards hold, and show faces with their captions.")
@click.argument("directory", metavar="DIRECTORY_OR_URL")
@click.option("--quick", is_flag=True, help="Read the manifest and the indices alone: no words, sizes or rejections.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON instead of as a table.")
@click.option(
    "--html", type=click.Path(path_type=Path), help="Also write one page with histograms, pictures and voices there."
)
@click.option("--out", type=click.Path(path_type=Path), help="Also draw a contact sheet there (.png, .jpg).")
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--num", default=24, show_default=True, type=click.IntRange(1, 1000), help="Faces on the page and sheet.")
@click.option("--columns", default=6, show_default=True, type=click.IntRange(1), help="Faces in a row of the sheet.")
def inspect(
    directory: str,
    quick: bool,
    as_json: bool,
    html: Path | None,
    out: Path | None,
    split: str,
    num: int,
    columns: int,
) -> None:
    """Count what the shards in DIRECTORY hold: how many of what, how long, how large, how often, and what was refused.

    \b
    t2f-dist inspect shards/lfw                     # a table
    t2f-dist inspect shards/lfw --html page.html    # and a page to look at
    t2f-dist inspect shards/lfw --json | jq .splits.train.samples
    """
    import json

    from t2f_dist.inspection.census import take
    from t2f_dist.inspection.excerpt import excerpts
    from t2f_dist.inspection.table import text

    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--out {out}: end it with .png, .jpg, .jpeg or .webp")
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html {html}: end it with .html")
    census = take(directory, quick)
    # In ASCII, so that nothing in it moves a terminal's cursor.
    click.echo(json.dumps(census.to_dict()) if as_json else text(census))
    if html is None and out is None:
        return
    shown = excerpts(directory, split, num)
    if html is not None:
        from t2f_dist.inspection.page import page

        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(census, split, shown), encoding="utf-8", errors="replace")
        click.echo(f"{html}: {html.stat().st_size / 1e6:.1f} MB, with {counted(len(shown), 'picture')}", err=as_json)
    if out is not None:
        from t2f_dist.inspection.sheet import sheet

        drawn = sheet(shown, columns)
        out.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(out)
        click.echo(f"{out}: {drawn.width}x{drawn.height}", err=as_json)
