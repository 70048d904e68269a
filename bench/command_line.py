"""What the bench's command lines have in common."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click


def run(command: click.Command, arguments: Sequence[str] | None, prog: str, **context: Any) -> Any:
    """Run a command and return what it returns.

    A usage error is one line on stderr and exit status 2.
    """
    try:
        return command.main(arguments, prog_name=prog, standalone_mode=False, **context)
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        click.echo(f"{prog}: {message}", err=True)
        sys.exit(2)


def separate(arguments: Sequence[str], *options: str) -> list[str]:
    """Return the arguments with these options once per value."""
    found: list[str] = []
    last = ""
    for argument in arguments:
        if argument.startswith("-"):
            last, bare = argument, True
        elif last in options:
            found += [] if bare else [last]
            bare = False
        found.append(argument)
    return found


def between(least: float, most: float) -> Callable[[str], float]:
    """Return a type for numbers; click's lets NaN pass."""
    convert = click.FloatRange(least, most)

    def number(value: str) -> float:
        found: float = convert(value)
        if math.isnan(found):
            raise click.BadParameter(f"{value!r} is not a number")
        return found

    return number


def listed(one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a type for lists such as 10,100, without repetition."""

    def convert(value: str) -> list[Any]:
        return list(dict.fromkeys(one(part.strip()) for part in value.split(",")))

    return convert
