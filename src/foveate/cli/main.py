"""The program: from words to a verb, and from an error to a sentence. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback

import click

from foveate.cli.commands import command_of, verbs
from foveate.cli.options import option
from foveate.errors import FoveateError, UsageError, near_names
from foveate.utils import console
from foveate.utils.memory import exhausted
from foveate.utils.signals import Terminated, tidied
from foveate.version import __version__


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 failed, 2 wrong words, 3 no room on the disk, 130 and 143 (128 and its number) stopped
    by a signal."""
    sys.exit(_run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    try:
        with tidied():
            return _verbs().main(words, prog_name="foveate", standalone_mode=False) or 0
    except Terminated as ended:
        return _told(
            FoveateError(f"stopped by {ended.name}", hint="foveate runs lists what can go on"),
            128 + ended.number,
        )
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.Abort:
        return 130
    except click.UsageError as error:
        return _told(_translated(error))
    except FoveateError as error:
        return _told(error)
    except KeyboardInterrupt:
        return _told(FoveateError("stopped by Ctrl-C"), 130)
    except Exception as error:
        if os.environ.get("FOVEATE_DEBUG") == "1":
            raise
        return _told(_too_large(error) if exhausted(error) else _bug(error))


def _told(error: FoveateError, code: int | None = None) -> int:
    console.error(error)
    return code or error.exit_code


def _translated(error: click.UsageError) -> UsageError:
    """click's complaint in our words, with the nearest option or verb."""
    near: list[str] = []
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [
            name for parameter in error.ctx.command.get_params(error.ctx) for name in parameter.opts
        ]
        near = near_names(error.option_name, known)
    elif isinstance(error, _NoSuchVerb):
        near = near_names(error.verb, verbs())
    command = error.ctx.command_path if error.ctx else "foveate"
    hint = "did you mean " + " or ".join(near) + "?" if near else f"{command} --help"
    return UsageError(error.format_message().split(" Did you mean")[0].rstrip("."), hint=hint)


def _too_large(error: Exception) -> FoveateError:
    why = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    hint = "a smaller --batch-size or --size, or --set training.checkpointing=true"
    return FoveateError("memory is exhausted, by one image already", why=why, hint=hint)


def _bug(error: Exception) -> FoveateError:
    with tempfile.NamedTemporaryFile(
        "w", prefix="foveate-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    what = f"this should not happen: {type(error).__name__}: {error}"
    return FoveateError(what, why="a bug in Foveate", hint=f"send the details in {file.name}")


class _NoSuchVerb(click.UsageError):
    def __init__(self, verb: str, ctx: click.Context) -> None:
        super().__init__(f"there is no verb {verb!r}", ctx)
        self.verb = verb


class _Verbs(click.Group):
    """Makes a verb's command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(verbs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command_of(cmd_name) if cmd_name in verbs() else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in verbs():
            raise _NoSuchVerb(args[0], ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(verbs().items()))


def _verbs() -> click.Group:
    return _Verbs(
        help="Adapts large pretrained vision models to your own images, and tells you honestly what you got.\n\n"
        "Start with: foveate demo, or foveate fit FOLDER (a folder with a folder of images for each class).",
        params=[
            option(
                "--version",
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_say_version,
                help="The version.",
            )
        ],
        no_args_is_help=True,
    )


def _say_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        console.lines([f"foveate {__version__}"])
        ctx.exit()
