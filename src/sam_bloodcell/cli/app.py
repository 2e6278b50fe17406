"""The commands together, and how their errors and warnings are shown."""

import io
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from .benchmark import benchmark
from .cache import cache
from .convert import convert
from .demo import demo
from .doctor import doctor
from .download import download
from .embed import embed
from .finetune import finetune
from .predict import predict
from .reproduce import reproduce
from .train import train


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
            typer.secho(f"Error: {exc}", err=True, fg=typer.colors.RED)
            raise typer.Exit(1) from exc


app = typer.Typer(
    cls=_OneLineErrors,
    help="Classify single blood cell images across laboratories. For research only, not for diagnosis.",
    epilog="Exit codes: 0 done; 1 an error, told in one line that starts with 'Error:'; 2 no such command or option; "
    "130 stopped by Ctrl-C.",
    rich_markup_mode="markdown" if sys.stdout.isatty() else None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, benchmark, train, predict, reproduce, embed, finetune, doctor, download, convert):
    app.command()(command)
app.add_typer(cache, name="cache")


@app.callback()
def _show_warnings_in_one_line() -> None:
    def show(message: Warning | str, *_: object, **__: object) -> None:
        typer.secho(f"Warning: {message}", err=True, fg=typer.colors.YELLOW)

    warnings.showwarning = show
