"""`t2f-dist index`: tars that others wrote, ready to train on as they are."""

from pathlib import Path
from typing import Any

import click

from t2f_dist.cli.words import cores, counted


@click.command(short_help="Index tars of img2dataset and others, to train on them as they are.")
@click.argument("tars", nargs=-1, metavar="TARS...")
@click.option("--recipe", type=click.Path(path_type=Path), help="YAML file with these options and more; flags win.")
@click.option("--out", metavar="DIR", help="Folder of the index; made if missing. The tars' own folder will do.")
@click.option("--resolution", type=int, help="Pixels a side, a power of two, to which images are brought on reading.")
@click.option("--fit", type=click.Choice(["crop", "pad", "stretch"]), help="How to square a picture.  [default: crop]")
@click.option("--allow-upscale", is_flag=True, default=None, help="Keep images smaller than the resolution.")
@click.option(
    "--levels/--no-levels",
    default=None,
    help="Decode each image once, and keep small pictures for the early stages; without, an image that cannot be "
    "decoded or is too small shows only in training.  [default: --levels]",
)
@click.option(
    "--captions-key",
    metavar="FIELD",
    help="Field of the .json or the .parquet that holds the caption.  [default: txt: the .txt, else `caption`]",
)
@click.option(
    "--identity-field",
    metavar="FIELD",
    help="Field of the .json that says who is shown.  [default: each sample is its own]",
)
@click.option("--validation", type=float, help="Share of identities held back.  [default: 0.05]")
@click.option("--test", type=float, help="Share of identities held back.  [default: 0.05]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any field of the recipe; repeatable.")
@click.option("--workers", default=None, type=click.IntRange(1), help="Processes.  [default: one a CPU core]")
@click.option("--overwrite", is_flag=True, help="Replace a finished index in --out.")
def index(
    tars: tuple[str, ...],
    recipe: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    overwrite: bool,
    **flags: Any,
) -> None:
    """Write an index beside TARS that somebody else wrote; they stay where they are and as they are.

    TARS are files, folders, globs, patterns with braces, or URLs (s3, gs, http, https, hf):

    \b
    t2f-dist index cc3m --out cc3m --resolution 64
    t2f-dist index 's3://bucket/cc3m/{00000..00331}.tar' --out shards/cc3m --resolution 256

    Killed or cut off, the same command goes on where it stopped. Training takes --out like any folder of shards.
    What cannot be used is recorded with its tar, position and reason in OUT/rejected.jsonl.
    """
    from t2f_dist.config.index import IndexRecipe
    from t2f_dist.config.load import override, read_yaml, resolve
    from t2f_dist.shard import index as shard_index

    mapping = read_yaml(recipe) if recipe else {}
    if tars:
        mapping["tars"] = list(tars)
    for flag, key in _FLAGS.items():
        if flags[flag] is not None:
            section, _, name = key.rpartition(".")
            nested = mapping.get(section) if section else mapping
            nested = {**nested, name: flags[flag]} if isinstance(nested, dict) else {name: flags[flag]}
            mapping = mapping | {section: nested} if section else nested
    resolved = resolve(IndexRecipe, override(mapping, overrides), source=recipe or "t2f-dist index")
    indexed = shard_index.index(resolved, cores(workers), overwrite)
    shard_index.report(indexed)
    for kind, total in indexed.manifest.totals.items():
        click.echo(
            f"{kind}: {total.found:,} found = {total.stored:,} stored + {total.rejected:,} rejected "
            f"+ {total.unmatched:,} unmatched"
        )
    counts = ", ".join(f"{split} {indexed.manifest.num_samples(split):,}" for split in indexed.manifest.splits)
    damaged = f"; {counted(len(indexed.damaged), 'damaged tar')} left out" if indexed.damaged else ""
    where = f"in {counted(indexed.num_tars, 'tar')}{damaged}"
    click.echo(f"{resolved.out}: {counts}, {where}; train with --set data.shards={resolved.out}")


# The flags, and the fields of the recipe that they fill.
_FLAGS = {
    "out": "out",
    "resolution": "image.resolution",
    "fit": "image.fit",
    "allow_upscale": "image.allow_upscale",
    "levels": "levels",
    "captions_key": "captions",
    "identity_field": "identity",
    "validation": "split.validation",
    "test": "split.test",
}
