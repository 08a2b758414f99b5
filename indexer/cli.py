"""The frame of every command line: commands are typed functions, this turns them into `python -m <package>`.

In: a table of functions with keyword-only parameters. Out: parsed arguments (flags, `--config file.yaml`), a printed
result (text, or JSON with `--json`), and an exit code: 0 done, 1 work failed, 2 wrong usage or input.

The library knows nothing of command lines: its option types are plain dataclasses, whose fields become flags here, and
its errors name a field as `field`, which is printed as the flag that it is.
"""

import difflib
import inspect
import json
import logging
import os
import re
import sys
import warnings
from argparse import Action, HelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import register_type

from indexer.errors import GeoError, InputError, WorkError


@dataclass(frozen=True, slots=True)
class Result:
    """What a command has to say: `data` for programs (`--json`), `text` for people."""

    data: Mapping[str, Any]
    text: str
    failed: bool = False  # True: everything was reported, but part of the work failed; exit code 1


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command: a function with keyword-only parameters and a Google docstring that returns a Result."""

    # Returns None in a process that has nothing to say, because another process of the same command reports.
    function: Callable[..., Result | None]
    positional: Mapping[str, str] = field(default_factory=dict)  # parameter -> its help, given without a flag
    # Parameters that are dataclasses and stay sections: `--data.photos`. The fields of all others, and of dataclasses
    # among these, are offered by their own names, and the Args of the dataclass's docstring are their help.
    sections: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Commands that share their first word: `python -m training adopt geoclip`."""

    description: str
    commands: Mapping[str, Command]


def command_words(commands: Mapping[str, Command | Group]) -> Iterator[tuple[str, ...]]:
    """The words that each command is called by, those of groups included."""
    for name, command in commands.items():
        inside = command_words(command.commands) if isinstance(command, Group) else [()]
        yield from ((name, *words) for words in inside)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the moment: a progress bar replaces it while it is on the screen."""

    parser: "_Parser | None" = None  # of the command whose flags the lines name

    def format(self, record: logging.LogRecord) -> str:
        return _with_flags(super().format(record), self.parser)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _list_type(name: str, convert: Callable[[Any], Any]) -> type:
    """A type of lists that are written `5000,2000` on a command line, and as a list in YAML; help calls it `name`."""
    kind = type(name, (tuple,), {})

    def parse(value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, list | tuple) else [parts]
        return kind(convert(part) for part in parts)

    register_type(kind, list, parse)
    return kind


Strings = _list_type("words", str.strip)

# What a parameter of such a type is offered as.
_LISTS: Mapping[Any, type] = {
    tuple[int, ...]: _list_type("integers", int),
    tuple[float, ...]: _list_type("numbers", float),
    tuple[str, ...]: Strings,
}

_Paths = _list_type("paths", Path)

# A command line has no text that is no path, where the library takes both.
_OFFERED: Mapping[Any, Any] = {
    **_LISTS,
    str | Path: Path,
    str | Path | None: Path | None,
    str | Path | tuple[str | Path, ...] | None: _Paths | None,
}

# What help and errors call the values of a type.
_KINDS: Mapping[Any, str] = {
    **{int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "null"},
    **{kind: f"{kind.__name__} joined by commas" for kind in (*_LISTS.values(), _Paths)},
    tuple[float, float, float]: "list of three numbers",
}


def _kind(hint: Any) -> str:
    """The same of every type; of those that are a choice all choices."""
    parts = [str(each) if get_origin(hint) is Literal else _kind(each) for each in get_args(hint)]
    return _KINDS.get(hint) or " or ".join(parts) or "section"


class _Help(DefaultHelpFormatter):
    def _get_type_str(self, action: Action) -> str | None:
        hint = getattr(action, "_typehint", action.type)
        return None if hint is None else _kind(hint)


# How jsonargparse names a value it does not take, a command it does not know, a command, and the options it misses.
_WRONG_VALUE = re.compile(r'Parser key "([\w.]+)":\n.*(?:value|base 10|float): ([^\n]*)', re.DOTALL)
_UNKNOWN_COMMAND = re.compile(r"argument command: invalid choice: '([^']*)'")
_NAMED_COMMAND = re.compile(r"(?:Subcommand '|required: )([a-z]+)['.]")
_REQUIRED = re.compile(r"required: ([a-z]+\.[\w.]+(?:, [a-z]+\.[\w.]+)*)")
# How jsonargparse names an option it does not know, on the command line and in a file.
_UNKNOWN_OPTION = re.compile(r"(?:unrecognized arguments: |accept option ')-*([\w.-]+)")


class _Parser(ArgumentParser):
    """jsonargparse with `--dashed-names`, and the nearest valid name in the error for an unknown one."""

    def speak_like_a_command_line(self) -> None:
        """Offer `--tau-max` (shown) beside `--tau_max` (accepted), and let a switch such as `--strict` stand alone."""
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True
            # A parameter cannot be called `from`: `from_` is offered as `--from`.
            # jsonargparse looks for `--print_config` by its name, as Lightning's users know it.
            if action.dest == "print_config":
                continue
            dashed = [option.rstrip("_").replace("_", "-") for option in action.option_strings]
            if dashed != action.option_strings:
                self._option_string_actions.update(dict.fromkeys(dashed, action))
                action.option_strings = dashed

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Help that names `fields` as the flags that they are."""
        return _with_flags(super().format_help(formatter), self)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        program = self.prog
        command = _NAMED_COMMAND.search(message)
        if command and not program.endswith(command[1]):
            program += f" {command[1]}"
        names = [name for parser in (self, *self.commands.values()) for name in parser._option_string_actions]
        if missing := _REQUIRED.search(message):  # `fit.data.photos, fit.out`
            options = ["--" + name.partition(".")[2].replace("_", "-") for name in missing[1].split(", ")]
            written = (option if option in names else option.removeprefix("--") for option in options)
            message = message.replace(missing[1], ", ".join(written))
        wrong, unknown, near = _WRONG_VALUE.search(message), _UNKNOWN_OPTION.search(message), list[str]()
        for action in self._actions:
            if wrong and action.dest == wrong[1]:
                # Sections come from a file.
                name = wrong[1] if "." in wrong[1] or not action.option_strings else action.option_strings[0]
                message = f"{name}: expected {_kind(getattr(action, '_typehint', action.type))}, not {wrong[2]}"
        if unknown:
            wanted = "--" + unknown[1].replace("_", "-")
            near = difflib.get_close_matches(wanted, [name for name in names if "_" not in name], n=1)
        elif mistyped := _UNKNOWN_COMMAND.search(message):
            near = difflib.get_close_matches(mistyped[1], self.commands, n=1)
        message += f". Did you mean {near[0]}?" if near else ""
        print(f"error: {message}\nOptions: {program} --help", file=sys.stderr)  # noqa: T201
        raise SystemExit(InputError.exit_code)

    @property
    def commands(self) -> "Mapping[str, _Parser]":
        """The parser of each sub-command."""
        return self._subcommands_action._name_parser_map if self._subcommands_action else {}


def _parser(
    package: str, description: str, commands: Mapping[str, Command | Group], *, first: str | None = None
) -> _Parser:
    """first: the first word of the command line, where that is known; options of other commands are left out then."""
    chosen = {first} & {*commands, "--help", "-h"} or commands
    parser = _Parser(prog=f"python -m {package}", description=description, formatter_class=_Help)
    table = parser.add_subcommands(required=True, dest="command", metavar="command")
    for name, command in commands.items():
        if isinstance(command, Group):  # `main` goes on with its commands
            table.add_subcommand(name, _Parser(description=command.description), help=command.description)
            continue
        doc = command.function.__doc__ or ""
        sub = _Parser(description=doc.split("Args:")[0].strip())
        table.add_subcommand(name, sub, help=doc.strip().splitlines()[0])
        sub.prog = f"{parser.prog} {name}"  # jsonargparse puts options of the package before it, and there are none
        if name not in chosen:
            continue
        sub.add_argument("--config", action="config", help="YAML file with any of these options; flags win over it.")
        sub.add_argument("--json", action="store_true", help="Print a machine-readable result on standard output.")
        hints = get_type_hints(command.function)
        for parameter, text in command.positional.items():
            hint = hints[parameter]
            kind = {"nargs": "+", "type": str} if get_origin(hint) is list else {"type": hint}
            sub.add_argument(parameter, help=text, **kind)
        _offer(sub, command.function, command.sections, given=command.positional)
        sub.speak_like_a_command_line()
    return parser


def _offer(parser: _Parser, kind: Callable[..., Any], sections: Sequence[str], *, given: Iterable[str] = ()) -> None:
    """Add the options of a command, and those of dataclasses in it; given: what is offered already."""
    shared = _shared_options(kind, sections)
    parser.add_function_arguments(_offered(kind), as_group=False, skip={*given, *shared})
    for options in shared.values():
        _offer(parser, options, sections)


def _shared_options(kind: Callable[..., Any], sections: Sequence[str]) -> dict[str, type[Any]]:
    """Parameters of a command, or fields of a dataclass, that stand for several options."""
    apart = {*sections, "return"}
    hints = {name: each for name, each in get_type_hints(kind).items() if name not in apart}
    return {name: each for name, each in hints.items() if inspect.isclass(each) and is_dataclass(each)}


def _offered(kind: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the parameters of a command or of a dataclass, whose lists are written with commas."""

    def offered(**_: Any) -> None:
        pass

    hints = get_type_hints(kind)
    parameters = [
        each.replace(annotation=_OFFERED.get(hints[each.name], hints[each.name]), kind=inspect.Parameter.KEYWORD_ONLY)
        for each in inspect.signature(kind).parameters.values()
    ]
    offered.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    offered.__annotations__ = {each.name: each.annotation for each in parameters}
    offered.__module__ = kind.__module__
    # Of a dataclass that extends another one, each says what its own fields mean.
    docs = [inspect.cleandoc(each.__doc__ or "") for each in getattr(kind, "__mro__", [kind])]
    offered.__doc__ = docs[0] + "".join(f"\n{doc.partition('Args:')[2].strip(chr(10))}" for doc in docs[1:-1])
    return offered


def _arguments(kind: Callable[..., Any], sections: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command, or a dataclass in it, is called with.

    One by one: jsonargparse's namespace renames what it has a method for, such as `values`, but finds it.
    """
    shared = _shared_options(kind, sections)

    def value(name: str) -> Any:  # lists as the library has them
        return tuple(given[name]) if isinstance(given[name], (*_LISTS.values(), _Paths)) else given[name]

    return {
        name: shared[name](**_arguments(shared[name], sections, given)) if name in shared else value(name)
        for name in inspect.signature(kind).parameters
    }


def _with_flags(message: str, parser: _Parser | None) -> str:
    """A text of the library, its `fields` written as the flags of a command."""

    def flag(name: re.Match[str]) -> str:
        option = "--" + name[1].rstrip("_").replace("_", "-")
        return option if parser and option in parser._option_string_actions else name[0]

    # A column of a table is none, whatever it is called.
    return re.sub(r"(?<!column )`([a-z][a-z0-9_.]*)`", flag, message)


def main(
    package: str,
    description: str,
    commands: Mapping[str, Command | Group],
    *,
    argv: Sequence[str] | None = None,
) -> int:
    """Run one command line and return its exit code. Only `__main__` modules call this: it configures logging."""
    words = sys.argv[1:] if argv is None else argv
    group = commands.get(words[0]) if words else None
    if isinstance(group, Group):
        return main(f"{package} {words[0]}", group.description, group.commands, argv=words[1:])
    log = _StandardError()
    logging.basicConfig(handlers=[log], format="%(name)s: %(message)s")
    for name in ("indexer", "encoder", "training", "search"):  # what other libraries find noteworthy is not for here
        logging.getLogger(name).setLevel(logging.INFO)
    # Odd metadata in a photo is no news to the person at the terminal; a photo that cannot be used is a row.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    ran = parser = _parser(package, description, commands, first=words[0] if words else None)
    try:
        parsed = parser.instantiate(parser.parse_args(argv))
        given, command = parsed[parsed.command], commands[parsed.command]
        assert isinstance(command, Command), "groups are gone into above"
        ran = log.parser = parser.commands[parsed.command]
        result = command.function(**_arguments(command.function, command.sections, given))
        if result is None:
            return 0
        text = json.dumps(result.data, allow_nan=False) if given["json"] else _with_flags(result.text, ran)
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # `... | head` closed our output; nothing failed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UnicodeDecodeError as error:  # of a configuration file; everything else is opened as bytes
        print(f"error: a file is not UTF-8 text ({error}). Save it as UTF-8.", file=sys.stderr)  # noqa: T201
        return InputError.exit_code
    except (GeoError, OSError) as error:  # of the system's: a disk that fails, a file that goes away under us
        print(f"error: {_with_flags(str(error), ran)}", file=sys.stderr)  # noqa: T201
        return error.exit_code if isinstance(error, GeoError) else WorkError.exit_code
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept, and nothing half-written", file=sys.stderr)  # noqa: T201
        return 130  # the shell's convention for Ctrl-C
    return 1 if result.failed else 0
