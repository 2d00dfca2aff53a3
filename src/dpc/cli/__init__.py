"""The command ``dpc``. Importing it loads no torch: each command imports what it needs when it runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from dpc.cli.commands.analyze import analyze
from dpc.cli.commands.bench import bench
from dpc.cli.commands.calibrate import calibrate
from dpc.cli.commands.compare import compare
from dpc.cli.commands.eval import evaluate
from dpc.cli.commands.export import export
from dpc.cli.commands.generate import generate
from dpc.cli.commands.lab import lab
from dpc.cli.commands.report import report
from dpc.cli.commands.run import run
from dpc.cli.commands.score import score
from dpc.cli.commands.trace import trace
from dpc.cli.commands.tune import tune
from dpc.cli.commands.zoo import zoo
from dpc.cli.signals import Stop, stoppable
from dpc.errors import UserError

app = typer.Typer(
    name="dpc",
    help="Dynamic Prompt Corruption: tune a soft prompt, see where it misleads the reasoning, and answer again.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "tune": tune,
    "calibrate": calibrate,
    "eval": evaluate,
    "compare": compare,
    "export": export,
    "score": score,
    "generate": generate,
    "report": report,
    "trace": trace,
    "lab": lab,
    "analyze": analyze,
    "bench": bench,
}
# Commands that keep what they computed.
GO_ON = ("run", "tune", "calibrate", "eval", "analyze")
OUT_OF_MEMORY = (
    "out of memory; what was computed is kept; give the same command with a smaller --set decoding.batch_size=N or "
    "decoding.saliency_batch_size=N to go on (a smaller tuning.batch_size needs another --output)"
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(zoo, name="zoo")


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Dynamic Prompt Corruption: tune a soft prompt, see where it misleads the reasoning, and answer again."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"dpc {installed('dpc')}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 2 and one line for what the user can mend, 128 and its number for a signal."""
    sys.exit(run_command(arguments))


def run_command(arguments: list[str] | None) -> int:
    """Run one command and return its exit code; everything goes to the terminal as it would for a user."""
    with stoppable() as stop:
        try:
            code: Any = typer.main.get_command(app).main(args=arguments, prog_name="dpc", standalone_mode=False)
            # Typer catches Ctrl-C itself.
            return _interrupted(stop, arguments) if code == 130 else code if isinstance(code, int) else 0
        except UserError as error:
            return _complain(" ".join(str(error).split()))
        except typer.TyperException as error:
            return _explain(error)
        except (KeyboardInterrupt, typer.Abort):
            return _interrupted(stop, arguments)
        except BrokenPipeError:
            sys.stderr.close()
            return 0
        except Exception as error:
            # An import that is interrupted can end in any error.
            if stop.received is not None:
                return _interrupted(stop, arguments)
            if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error)):
                return _complain(OUT_OF_MEMORY)
            raise


def _explain(error: Exception) -> int:
    message = getattr(error, "format_message", error.__str__)()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return 0
    return _complain(f"{' '.join(message.split())} (see dpc --help)")


def _interrupted(stop: Stop, arguments: list[str] | None) -> int:
    command = (sys.argv[1:] if arguments is None else arguments)[:1]
    goes_on = "; what was computed is kept: give the same command again to go on" if command[0] in GO_ON else ""
    name = "" if stop.received in (None, signal.SIGINT) else f" by {stop.received.name}"
    print(f"\ninterrupted{name}{goes_on}", file=sys.stderr)
    return stop.code


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
