"""The command line that every script has: sources in, one folder out, and what is missing."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.archives import Source, open_source
from data_prep.placing import Report
from lgrnet.records import DataError

STOPPED = "stopped; the same command goes on from here"


def parser_of(description: str, src_help: str, password: bool = False) -> argparse.ArgumentParser:
    """A parser with --src, --dst and --dry_run, and --password where archives may have one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--src", type=Path, nargs="+", required=True, metavar="PATH", help=src_help)
    parser.add_argument("--dst", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--dry_run", action="store_true", help="look at the sources and count, write nothing")
    if password:
        parser.add_argument("--password", nargs="?", const="", help="of the archives; without a value it is asked for")
    return parser


def sources_of(options: argparse.Namespace) -> list[Source]:
    """The opened downloads of a command line; raises DataError as `open_source` does."""
    password = getattr(options, "password", None)
    if password == "":
        try:
            password = getpass.getpass("password of the archives: ")
        except EOFError as error:
            raise DataError("there is no terminal to ask for the password; give it: --password PASSWORD") from error
    return [open_source(path, password) for path in options.src]


def run(
    prepare: Callable[[argparse.Namespace], Report],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs a script and prints its report: 0 when all is there, 1 when something is missing, 2 with a message, 130 when
    it was interrupted.

    arguments  of the command line, None: those of the process
    """
    options = parser.parse_args(arguments)
    try:
        report = prepare(options)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    for line in report.lines():
        say(line)
    say(_last_line(report, options))
    return 0 if report.complete else 1


def say(line: str) -> None:
    """Prints a line; what the output cannot hold, such as a name that is no text, becomes escapes."""
    coding = sys.stdout.encoding or "utf-8"
    print(line.encode(coding, "backslashreplace").decode(coding))


def _last_line(report: Report, options: argparse.Namespace) -> str:
    frames = sum(sum(part.found.values()) for part in report.parts)
    what = "nothing written, would make" if options.dry_run else "done,"
    missing = "" if report.complete else "; INCOMPLETE, see above"
    listed = "" if report.complete or options.dry_run else f" and {options.dst / 'prepared.json'} for every name"
    return f"{what} {frames} frames in {options.dst}{missing}{listed}"
