"""Train: `accelerate launch --config_file launch/cpu.yaml -m t2f_dist.train --config configs/demo.yaml`.

Exit codes of a rank: 0 finished, 1 failed, 3 stopped by a signal after saving, 4 ended by the watchdog. Launchers turn
all but 0 into 1, so the outcome also stands in RUN/status.json.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
import time
import traceback
from typing import NoReturn

import click

from t2f_dist.config.load import dump, read_yaml, resolve
from t2f_dist.config.redaction import said, without_secrets
from t2f_dist.config.schema import Config
from t2f_dist.training.launch import launcher
from t2f_dist.training.run.status import EXIT_FAILED, EXIT_PREEMPTED


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config", "path", required=True, metavar="FILE", help="What is trained: one of configs/*.yaml, or yours."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key, such as --set data.flip=true."
)
@click.option("--run", "folder", metavar="DIR", help="Folder of checkpoints, snapshots and logs (the key `run`).")
@click.option("--dry-run", is_flag=True, help="Print the world size, the configuration and the stages, and stop.")
def main(path: str, overrides: tuple[str, ...], folder: str | None, dry_run: bool) -> None:
    """Train a GAN on shards. To resume, run the same command again.

    \b
    Two ranks on the CPU:
      accelerate launch --config_file launch/cpu.yaml -m t2f_dist.train --config configs/demo.yaml
    See launch/README.md for one GPU, one node and several nodes.
    """
    launcher.miss()
    _name_cache()
    config: Config | None = None
    started = time.strftime("%FT%TZ", time.gmtime())
    main_rank = os.environ.get("RANK", "0") == "0"  # the others would only repeat what it says before the launch
    try:
        overrides += (f"run={folder}",) if folder else ()
        source = f"{path} with --set" if overrides else path
        config = resolve(Config, read_yaml(path), overrides, source=source)
        if dry_run:
            description = _describe(config)
            if main_rank:
                click.echo(description)
            return
        finished = _train(config)
    except (ValueError, OSError) as error:
        if config is not None or main_rank:
            click.echo(f"error: {said(error)}", err=True)
        if config is not None and main_rank and not dry_run:
            from t2f_dist.training.run.run_folder import note_failure

            note_failure(config, error, started)  # of before the folder was held: an older outcome must not stand
        _fail()
    except KeyboardInterrupt:  # the training itself hears it by a handler of its own
        if main_rank:
            click.echo("SIGINT while no training was going on: the same command goes on from what is saved", err=True)
        _fail()
    except Exception as error:
        from t2f_dist.training.run.failure import in_words, is_foreseen

        if not is_foreseen(error):
            _unforeseen()
        click.echo(f"error: {said(in_words(error, os.environ.get('RANK', '0')))}", err=True)
        _fail()
    sys.exit(0 if finished else EXIT_PREEMPTED)


def _unforeseen() -> NoReturn:
    """A fault of the program: where it is, without secrets that its message may hold."""
    click.echo(without_secrets(traceback.format_exc()), err=True, nl=False)
    _fail()


def _fail() -> NoReturn:
    """Leave; a launcher's rank that has joined others without Python's clearing up: gloo's threads may abort in it."""
    torch = sys.modules.get("torch")
    if launcher.ELASTIC in os.environ and torch is not None and torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_FAILED)
    sys.exit(EXIT_FAILED)


def _name_cache() -> None:
    """Adam asks torch for its folder of kernels, which is named after the user: in a container there may be no name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor-{os.getuid()}")


def _train(config: Config) -> bool:
    from t2f_dist.training.launch.ranks import Ranks
    from t2f_dist.training.loop import train

    ranks = Ranks(config.train.timeout_seconds)
    if ranks.is_main:
        click.echo(ranks.describe())
    finished = train(config, ranks)
    ranks.leave()
    return finished


def _describe(config: Config) -> str:
    from t2f_dist.training.plan import describe

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return f"world size {world_size}\n\n{dump(config)}\n{describe(config, world_size)}"


if __name__ == "__main__":
    main()
