"""The command line: thin commands that hand over to the rest, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

import click

from darwinc import __version__
from darwinc.commands.check import check
from darwinc.commands.compress import compress
from darwinc.commands.demo import demo
from darwinc.commands.importing import import_
from darwinc.commands.inspect import inspect
from darwinc.commands.listing import passes
from darwinc.commands.measuring import bench, report
from darwinc.errors import DarwincError, Interrupted

BUG = 70


class DarwincGroup(click.Group):
    """Every error leaves as one sentence and its exit code; a traceback only with --verbose, or for a bug."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and exit. SIGTERM counts as Ctrl-C: nothing half written is left behind."""
        kwargs["standalone_mode"] = False
        # Threads that spin while they wait make two busy processes on one machine ten times slower; libraries read this
        # as they load.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        verbose = "--verbose" in (args[0] if args else sys.argv)
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            code = super().main(*args, **kwargs)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo("darwinc: stopped; nothing is half written. Run the same command again to start over.", err=True)
            sys.exit(Interrupted.exit_code)
        except DarwincError as error:
            if verbose or error.exit_code == BUG:
                traceback.print_exc()
            click.echo(f"darwinc: {error}", err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            sys.exit(1)
        except Exception:  # noqa: BLE001 - whatever gets here is a bug of ours, and is said to be one
            traceback.print_exc()
            click.echo("darwinc: this is a bug in darwinc; please report it with the lines above.", err=True)
            sys.exit(BUG)
        sys.exit(code or 0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


@click.group(cls=DarwincGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="darwinc")
def main() -> None:
    """Make neural networks smaller by evolution: ONNX in, a smaller and proven ONNX out.

    \b
    Exit codes: 0 done, 1 gate failed, 2 wrong usage, 3 unreadable or invalid model or data,
    4 target out of reach, 5 verification failed, 6 stopped, 70 a bug in darwinc.
    """


for _command in (compress, inspect, bench, check, report, import_, demo, passes):
    main.add_command(_command)
