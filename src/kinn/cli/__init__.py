"""The command line: `kinn generate | train | evaluate | reproduce | report | circuit | bench`.

One file per command. Each has `add(commands)`, which declares its options, and the function that runs it; heavy imports
wait until a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Sequence

from jsonargparse import ArgumentError

from kinn._version import __version__
from kinn.cli import bench, circuit, evaluate, generate, image, reproduce, train
from kinn.cli.parser import Commands, Parser
from kinn.notices import format_warning, is_out_of_memory

_EQUATIONS = ("poisson", "navier-stokes", "darcy", "shallow-water")
_IMAGES = ("train image", "evaluate image")
_COMMANDS = ("generate", *_EQUATIONS, "train", "evaluate", *_IMAGES, "reproduce", "report", "circuit", "bench")
_EXTRAS = {"lightning": "train", "timm": "vision", "torchvision": "vision", "webdataset": "vision"}
_USER_ERRORS = (ValueError, TypeError, IndexError, OSError, ImportError, FloatingPointError, MemoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        0 if all went well, 2 after a user's error (one sentence on stderr), 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # anywhere on the line: whoever needs it has just seen an error and adds it at the end
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"] or ["--help"]
    if " ".join(arguments[:2]) in _IMAGES:
        arguments[:2] = ["-".join(arguments[:2])]
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a table with signs that the terminal lacks beats none
    commands, shown = None, warnings.formatwarning
    warnings.formatwarning = format_warning
    try:
        parser, commands = _parser(arguments)
        options = parser.parse_args(arguments)
        return commands.run(options)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except BrokenPipeError as error:
        if _is_stdout_gone():  # `kinn ... | head`: nothing may flush to it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if debug:
            raise
        return _say(f"Error: the connection to another process broke, which ended early: {_message(error)}", 2)
    except KeyboardInterrupt:
        if debug:
            raise
        return _say(f"Interrupted; {commands.after_interrupt if commands else 'nothing was written'}.", 130)
    except ArgumentError as error:
        if debug:
            raise
        return _say(f"Error: {_sentence(str(error), arguments).rstrip('.')}; see {_help_for(arguments)}", 2)
    except _USER_ERRORS as error:
        if debug:
            raise
        return _say(f"Error: {_sentence(_message(error), arguments)}", 2)
    except RuntimeError as error:
        if debug or not is_out_of_memory(error):
            raise
        return _say("Error: there is not enough memory: try a smaller --batch-size or model", 2)
    finally:
        warnings.formatwarning = shown


def _parser(arguments: Sequence[str]) -> tuple[Parser, Commands]:
    parser = Parser(
        prog="kinn",
        usage="kinn COMMAND [options]",
        description="Train Kirchhoff-inspired neural operators on fields, and compare them with their baselines.",
        epilog="A first journey:\n"
        "  kinn generate poisson --output p.h5\n"
        "  kinn train --data p.h5 --model FNO --epochs 10 --output runs/p\n"
        "  kinn generate poisson --output test.h5 --samples 128 --seed 1\n"
        "  kinn evaluate runs/p/model.safetensors test.h5",
    )
    parser.add_argument("--version", action="version", version=f"kinn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    commands = Commands(parser, arguments)
    for command in (generate, train, evaluate, image, reproduce, circuit, bench):
        command.add(commands)
    return parser, commands


def _help_for(arguments: Sequence[str]) -> str:
    words = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument.replace("-image", " image"))
    known = [word for word in words[:2] if word in _COMMANDS]
    return " ".join(["kinn", *known, "--help"])


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"this command needs {error.name}: pip install 'kinn-torch[{_EXTRAS[error.name]}]'"
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    return str(error) or type(error).__name__


def _sentence(message: str, arguments: Sequence[str]) -> str:
    """One line, in words: parsers speak of keys and classes."""
    message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
    message = re.sub(r"typing\.Literal\[([^\]]+)\]", r"one of \1", message)
    # the parser's "train.output" is the user's "--output"
    message = re.sub(
        r"(?<=are required: )[\w., -]+",
        lambda keys: re.sub(r"(?:[\w-]+\.)*(\w+)", lambda key: _option(key[1], arguments), keys[0]),
        message,
    )
    # --model.order where --model-arguments.order is meant
    message = re.sub(
        r"(?:Expected a (\w+)\. )?Got value: NestedArg\(key='([\w.]+)', val=(.*)\)",
        r"takes a value of its own, and has no option .\2",
        message,
    )
    message = re.sub(r'Parser key "([\w.]+)":', lambda key: f"--{key[1].split('.', 1)[-1]}:", message)
    message = " ".join(message.split())
    choices = r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)(?:, NoneType)?\] Errors: .*"
    message = re.sub(choices + "Given value: ", r"Expected a \1. Got value: ", message)
    return message.replace("Expected a one of", "Expected one of").replace("Expected a int", "Expected an int")


def _option(key: str, arguments: Sequence[str]) -> str:
    positional = {"model", "folder", "data"} if arguments[0].startswith("evaluate") else {"model", "folder"}
    return key.upper() if key in positional else f"--{key.replace('_', '-')}"


def _is_stdout_gone() -> bool:
    try:
        print(flush=True)  # a failed write leaves nothing that a flush alone would find
    except BrokenPipeError:
        return True
    return False


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
