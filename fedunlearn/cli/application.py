"""The typer application and how it ends: a mistake is one sentence on standard error and exit code 2."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedunlearn import __version__
from fedunlearn.cli import audit, certify, compare, data, deploy, evaluate, methods, run, sweep, topology
from fedunlearn.errors import UserError, out_of_memory

INTERRUPTED = 130


class _Group(TyperGroup):
    """A group of commands that turns a user's mistake into its sentence, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except (MemoryError, RuntimeError, OSError) as error:
            told = out_of_memory(error)
            if told is None:
                raise
            typer.echo(f"error: {told}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: nothing unfinished is left that looks finished", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="fedunlearn",
    cls=_Group,
    help="Simulate deletion requests in a network that learns, with certificates you can check.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedunlearn {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Simulate deletion requests in a network that learns, with certificates you can check."""


app.command("run")(run.run)
app.command("deploy")(deploy.deploy)
app.command("sweep")(sweep.sweep)
app.add_typer(topology.app, name="topology")
app.add_typer(data.app, name="data")
app.add_typer(certify.app, name="certify")
app.command("verify")(certify.verify)
app.command("audit")(audit.audit)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("methods")(methods.methods)


def main() -> None:
    """Run the command line: the entry point of the installed command."""
    app(prog_name="fedunlearn")
