"""The command `t2f-dist`: parse, call one function, print.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from typing import Any

import click

from t2f_dist.cli import checkpoints, faces, index, inspect, shard


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
    line = " ".join(message.split()) or type(error).__name__
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )  # files of others


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="t2f-dist")
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")
def main(traceback: bool) -> None:
    """Faces, captions and voices into shards; snapshots into faces.

    Training is started by accelerate: accelerate launch -m t2f_dist.train --config CONFIG.
    """


# In the order of use.
main.add_command(shard.demo)
main.add_command(shard.shard)
main.add_command(index.index)
main.add_command(inspect.verify)
main.add_command(inspect.inspect)
main.add_command(faces.configs)
main.add_command(checkpoints.checkpoints)
main.add_command(faces.sample)
main.add_command(faces.evaluate)
