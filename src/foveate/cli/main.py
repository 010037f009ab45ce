"""The program: from arguments to a command, and from an error to an exit code.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import signal
import sys

import click

from foveate.cli.commands import command_names, get_command
from foveate.cli.parameters import label
from foveate.errors import DiskFull, FoveateError, UsageError, did_you_mean
from foveate.utils import console
from foveate.utils.files import is_disk_full, reason, system_error
from foveate.utils.invocation import shell_command
from foveate.utils.memory import is_out_of_memory
from foveate.utils.signals import Terminated, signal_name, terminate_cleanly
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
            group = _group()
            return group.main(arguments or ["--help"], "foveate", standalone_mode=False) or 0
    except Terminated as ended:
        return _report(FoveateError(f"stopped by {ended.name}"), 128 + ended.number)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.Abort, KeyboardInterrupt):  # click turns the latter into the former
        return _report(FoveateError(f"stopped by {signal_name(signal.SIGINT)}"), 130)
    except click.UsageError as error:
        return _report(_translate(error, arguments))
    except FoveateError as error:
        return _report(error)
    except Exception as error:
        if os.environ.get("FOVEATE_DEBUG") == "1":
            raise
        return _report(_unexpected(error))


def _report(error: FoveateError, code: int | None = None) -> int:
    recipe = sys.modules.get("foveate.recipe")
    options = recipe.SHORT_OPTIONS.items() if recipe is not None else ()
    flags = {field: f"--{name.replace('_', '-')}" for name, field in options}
    if isinstance(error.where, str):  # the field of the recipe that an option sets
        error.where = flags.get(error.where, error.where)
    console.error(error)
    return code or error.exit_code


def _translate(error: click.UsageError, arguments: list[str]) -> UsageError:
    """click's error as ours, with the nearest option or command."""
    command = error.ctx.command_path if error.ctx else "foveate"
    hint = f"{command} --help"
    match error:
        case _UnknownCommand():
            what, near = error.message, did_you_mean(error.name, command_names())
            return UsageError(what, hint=near or hint)
        case click.NoSuchOption():
            return _unknown_option(error, arguments)
        case click.MissingParameter() if error.param and error.ctx:
            usage = " ".join([command, *error.ctx.command.collect_usage_pieces(error.ctx)])
            return UsageError(f"{label(error.param)} is missing", hint=usage)
        case click.BadOptionUsage():
            wants = "takes no value" if "not take" in error.message else "needs a value"
            name = arguments[0] if arguments[0] in command_names() else ""  # click has no context
            hint = shell_command(*filter(None, [name, "--help"]))
            return UsageError(f"{error.option_name} {wants}", hint=hint)
    text = error.format_message().rstrip(".")
    return UsageError(f"{text[:1].lower()}{text[1:]}", hint=hint)


def _unknown_option(error: click.NoSuchOption, arguments: list[str]) -> UsageError:
    """An option that a command does not have, or that stands before the command."""
    name, ctx = error.option_name, error.ctx
    if ctx is None:
        return UsageError(f"there is no option {name}")
    if ctx.parent is None and any(each in command_names() for each in arguments):
        rest = [each for each in arguments if each != name]
        is_flag = name == "--json"  # an option that every command has, without a value
        usage = [*rest, name] if is_flag else ["COMMAND", "[OPTIONS]"]
        text = shell_command(*usage) if is_flag else f"foveate {' '.join(usage)}"
        return UsageError(f"options such as {name} come after the command", hint=text)
    params = ctx.command.get_params(ctx)
    known = [option for param in params for option in (*param.opts, *param.secondary_opts)]
    hint = did_you_mean(name, known) or f"{ctx.command_path} --help"
    return UsageError(f"{ctx.command_path} has no option {name}", hint=hint)


def _unexpected(error: Exception) -> FoveateError:
    """What nobody has caught: a full memory, a file that the system refuses, or a bug."""
    if is_out_of_memory(error):
        return _too_large(error)
    if isinstance(error, OSError) and error.filename is not None:
        return system_error(error)
    if is_disk_full(error):
        return DiskFull("no space is left on the disk", why=reason(error), hint="free some space")
    if isinstance(error, OSError):
        return FoveateError(f"the system refused: {reason(error)}")
    return _bug(error)


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
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        console.lines([f"foveate {__version__}"])
        ctx.exit()
