"""All commands, and the way in which their errors and warnings are shown."""

import io
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .adapt import adapt
from .benchmark import benchmark
from .cache import cache
from .check import check
from .convert import convert
from .demo import demo
from .doctor import doctor
from .download import download
from .embed import embed
from .finetune import finetune
from .predict import predict
from .reproduce import reproduce
from .train import train
from .wording import in_options, option_names


class _OneLineErrors(TyperGroup):
    """Commands that show a user's error in one line; every other error keeps its traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A name that the console's encoding lacks, printed at the end, must not make finished work an error.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # a reader such as `head` has closed the pipe
            raise
        except (ValueError, TypeError, OSError, ImportError) as exc:
            typer.secho(f"Error: {in_options(str(exc), _options_of(ctx))}", err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from exc


def _options_of(ctx: Any) -> dict[str, str]:
    command = ctx.command.commands.get(ctx.invoked_subcommand)
    return option_names(command.params) if command else {}


app = typer.Typer(
    cls=_OneLineErrors,
    help="Classify single blood cell images across laboratories. For research only, not for diagnosis.",
    epilog="Exit codes: 0 success; 1 an error, shown in one line that starts with 'Error:', or cells that 'check' "
    "finds not ready; 2 an unknown command, option or choice; 130 stopped by Ctrl-C.",
    rich_markup_mode="markdown" if sys.stdout.isatty() else None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (demo, check, benchmark, train, predict, adapt, reproduce, embed, finetune, doctor, download, convert):
    app.command()(command)
app.add_typer(cache, name="cache")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sam-bloodcell {version('sam-bloodcell')}")
        raise typer.Exit


@app.callback()
def _prepare(
    ctx: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    options = _options_of(ctx)

    def show(message: Warning | str, *_: object, **__: object) -> None:
        typer.secho(f"Warning: {in_options(str(message), options)}", err=True, fg=typer.colors.YELLOW)

    warnings.showwarning = show
