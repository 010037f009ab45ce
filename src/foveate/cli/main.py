"""The program: from arguments to a command, and from an error to an exit code.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys

import click

from foveate.cli.commands import command_names, get_command
from foveate.errors import FoveateError, UsageError, did_you_mean
from foveate.utils import console
from foveate.utils.memory import is_out_of_memory
from foveate.utils.signals import Terminated, terminate_cleanly
from foveate.version import __version__


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 failed, 2 invalid arguments, 3 no space left on the disk, 130 and 143 (128
    plus its number) stopped by a signal; `foveate check` has its own.
    """
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    with console.command_line():
        return _run_command(arguments)


def _run_command(arguments: list[str]) -> int:
    try:
        with terminate_cleanly():
            return _group().main(arguments, prog_name="foveate", standalone_mode=False) or 0
    except Terminated as ended:
        hint = "foveate runs lists the runs that can be resumed"
        return _report(FoveateError(f"stopped by {ended.name}", hint=hint), 128 + ended.number)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return 130
    except click.UsageError as error:
        return _report(_translate(error))
    except FoveateError as error:
        return _report(error)
    except KeyboardInterrupt:
        return _report(FoveateError("stopped by Ctrl-C"), 130)
    except Exception as error:
        if os.environ.get("FOVEATE_DEBUG") == "1":
            raise
        return _report(_too_large(error) if is_out_of_memory(error) else _bug(error))


def _report(error: FoveateError, code: int | None = None) -> int:
    console.error(error)
    return code or error.exit_code


def _translate(error: click.UsageError) -> UsageError:
    """click's error as ours, with the nearest option or command."""
    hint = None
    if isinstance(error, click.NoSuchOption) and error.ctx:
        params = error.ctx.command.get_params(error.ctx)
        known = [name for parameter in params for name in parameter.opts]
        hint = did_you_mean(error.option_name, known)
    elif isinstance(error, _UnknownCommand):
        hint = did_you_mean(error.name, command_names())
    command = error.ctx.command_path if error.ctx else "foveate"
    what = error.format_message().split(" Did you mean")[0].rstrip(".")
    return UsageError(what, hint=hint or f"{command} --help")


def _too_large(error: Exception) -> FoveateError:
    why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    hint = "a smaller --batch-size or --size, or --set training.gradient_checkpointing=true"
    return FoveateError("out of memory, even with one image per batch", why=why, hint=hint)


def _bug(error: Exception) -> FoveateError:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="foveate-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    what = f"unexpected error: {type(error).__name__}: {error}"
    return FoveateError(what, why="a bug in Foveate", hint=f"send the details in {file.name}")


class _UnknownCommand(click.UsageError):
    def __init__(self, name: str, ctx: click.Context) -> None:
        super().__init__(f"unknown command {name!r}", ctx)
        self.name = name


class _Group(click.Group):
    """Builds a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return command_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return get_command(cmd_name).build(cmd_name) if cmd_name in command_names() else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in command_names():
            raise _UnknownCommand(args[0], ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, get_command(name).docstring.summary) for name in command_names()]
            )


def _group() -> click.Group:
    return _Group(
        help="Adapt large pretrained vision models to your own images, with honest evaluation.\n\n"
        "\b\nStart with:\n  foveate demo\n"
        "  foveate fit FOLDER    (a folder with one subfolder of images per class)",
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_print_version,
                help="Print the version.",
            )
        ],
        options_metavar="",
        subcommand_metavar="COMMAND [OPTIONS]",
        no_args_is_help=True,
    )


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        console.lines([f"foveate {__version__}"])
        ctx.exit()
