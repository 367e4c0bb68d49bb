"""Parsers that all commands share: help texts with examples, and the table from command to function."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace

_Settings = TypeVar("_Settings")


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Examples keep their lines; an option's help ends with its default, without Python's types."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        if action.default in (None, argparse.SUPPRESS) or action.nargs == 0 or not action.option_strings:
            return text
        return f"{text} (default: %(default)s)"


class Parser(ArgumentParser):
    """A parser that raises errors instead of exiting.

    Args:
        description: one or two sentences on what the command does.
        epilog: examples, whose lines are kept.
        options: of the argument parser.
    """

    def __init__(self, *, description: str, epilog: str, **options: Any) -> None:
        super().__init__(
            description=textwrap.fill(description, 80),
            epilog=epilog,
            formatter_class=HelpFormatter,
            exit_on_error=False,
            print_config=None,
            **options,
        )


class Commands:
    """The commands of a parser.

    Args:
        parser: gets the commands.
        arguments: the command line. Options are declared only for the command that stands on it: their defaults may
            need slow imports.
        name: of the option that holds the chosen command.
    """

    def __init__(self, parser: Parser, arguments: Sequence[str], *, name: str = "command") -> None:
        self._name, self._arguments = name, arguments
        self._actions = parser.add_subcommands(
            required=True, dest=name, title=f"{name.capitalize()}s", metavar=name.upper()
        )
        self._runs: dict[str, Callable[[Namespace], int]] = {}
        self._interrupts: dict[str, str] = {}
        self.after_interrupt = "run the same command again"

    def add(
        self,
        name: str,
        parser: Parser,
        declare: Callable[[Parser], None],
        run: Callable[[Namespace], int],
        *,
        help: str,
        after_interrupt: str,
    ) -> None:
        """Add a command.

        Args:
            name: of the command.
            parser: with the command's description.
            declare: adds its options.
            run: gets the parsed options, returns the exit code.
            help: one line for the list of commands.
            after_interrupt: what to say after Ctrl-C: how to go on.
        """
        if name in self._arguments:
            declare(parser)
        self._actions.add_subcommand(name, parser, help=help)
        self._runs[name], self._interrupts[name] = run, after_interrupt

    def add_group(self, name: str, parser: Parser, *, choice: str, help: str, after_interrupt: str) -> Commands:
        """Add a command that has commands of its own, and return those; `choice` says what they are."""
        self._actions.add_subcommand(name, parser, help=help)
        below = Commands(parser, self._arguments, name=choice)
        self._runs[name], self._interrupts[name] = below.run, after_interrupt
        return below

    def run(self, options: Namespace) -> int:
        """Run the command that was chosen."""
        name = options[self._name]
        self.after_interrupt = self._interrupts[name]
        return self._runs[name](options[name])


def add_settings(group: Any, settings: type, names: Mapping[str, str] | None = None) -> None:
    """An option for every field of a settings class: its type, its default, and what the docstring says of it.

    Args:
        group: of the parser.
        settings: a dataclass whose docstring has an entry for each field.
        names: of options that are not called as the field.
    """
    types = get_type_hints(settings)
    words = (inspect.getdoc(settings) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", words, re.MULTILINE))
    for name, default in vars(settings()).items():
        text = " ".join(entries[name].split()).rstrip(".").replace("%", "%%").replace("`", "")
        option = (names.get(name, name) if names else name).replace("_", "-")
        group.add_argument(f"--{option}", type=types[name], default=default, help=text)


def settings_of(
    options: Mapping[str, Any], settings: type[_Settings], names: Mapping[str, str] | None = None
) -> _Settings:
    """What the options of `add_settings` say, as the settings class; its ValueErrors come up."""
    names = names or {}
    return settings(**{name: options[names.get(name, name)] for name in vars(settings())})


def add_config(parser: Parser) -> None:
    """The option for a file of options."""
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="YAML file with any of these options, such as OUTPUT/config.yaml of a run; options behind it prevail",
    )


def config_of(options: Namespace) -> dict[str, Any]:
    """What such a file holds: all options but where they come from and where results go; model arguments as values."""
    config = {name: value for name, value in options.as_dict().items() if name not in ("config", "output")}
    return {**config, "model_arguments": {name: value_of(value) for name, value in options.model_arguments.items()}}


def add_import(group: Any) -> None:
    """The option for modules with models of the user's own."""
    group.add_argument(
        "--import",
        type=str,
        nargs=1,  # and again: more would take what stands behind it
        action="extend",
        default=None,
        metavar="MODULE",
        help="module or Python file that registers models of your own; may be given several times",
    )


def import_modules(options: Namespace) -> None:
    """Import what `--import` names: modules, of the working folder too, and files by their name.

    Raises:
        ImportError: if there is no such module.
        FileNotFoundError: if there is no such file.
        ValueError: if another module has the name of the file.
    """
    for name in options["import"] or ():
        path, is_file = Path(name), name.endswith(".py")
        if is_file and not path.is_file():
            raise FileNotFoundError(f"--import: there is no file {path}")
        folder = str(path.resolve().parent if is_file else Path.cwd())
        if folder not in sys.path:  # which processes of further devices take over
            sys.path.insert(0, folder)
        module: Any = importlib.import_module(path.stem if is_file else name)
        found = getattr(module, "__file__", None)
        if is_file and Path(found or "").resolve() != path.resolve():
            raise ValueError(f"--import {path}: its name is that of another module, {found}: rename the file")


@functools.cache
def _loader() -> Any:
    """A reader of YAML that takes 1e-6 for a number, as Python does: the standard wants a point in it."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


def value_of(text: Any) -> Any:
    """A model argument from the command line, where it is text.

    >>> value_of("2"), value_of("[4, 1e-6]"), value_of("series"), value_of("1e-6"), value_of("'12'")
    (2, [4, 1e-06], 'series', 1e-06, '12')
    """
    import yaml

    try:
        return yaml.load(text, _loader()) if isinstance(text, str) else text
    except yaml.YAMLError as error:
        raise ValueError(f"a model argument cannot be read: {text!r} ({' '.join(str(error).split())})") from error


def expect_spare(options: Namespace) -> None:
    """Refuse to write over what is read, over anything that is no result, or on a folder."""
    given = {name.upper(): options[name] for name in ("model", "data") if options[name] is not None}
    for name in ("output", "predictions"):
        path = options.get(name)
        if path is None:
            continue
        if Path(path).is_dir():
            raise ValueError(f"--{name} must be a file, but {path} is a folder")
        for other, taken in given.items():
            if Path(path).resolve() == Path(taken).resolve():
                raise ValueError(f"--{name} {path} is {other} itself: choose another file")
        given[f"--{name}"] = path
    if options.output is not None and Path(options.output).exists():
        with Path(options.output).open("rb") as file:
            if not file.read(1024).lstrip().startswith(b"{"):
                raise ValueError(f"--output {options.output} exists and is no result: choose another file")
