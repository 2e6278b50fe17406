"""`sam-bloodcell doctor`."""

import typer


def doctor() -> None:
    """Show what works on this machine, and how to fix the rest.

    Example: sam-bloodcell doctor
    """
    from .examination import examine

    for finding in examine():
        typer.echo(f"{finding.what:22} {finding.found}")
        if finding.fix:
            typer.secho(f"{'':22} -> {finding.fix}", fg=typer.colors.YELLOW)
