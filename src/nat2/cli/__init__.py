"""The command line: verbs to functions."""

from __future__ import annotations

import io
import shlex
import sys
from typing import NoReturn

from nat2.cli.parser import build_parser, complain, parsed
from nat2.cli.verbs import VERBS, check_settings
from nat2.cli.words import continued, expanded, preset_of, underscored
from nat2.errors import ConfigError, LostProcessError, Nat2Error
from nat2.launcher import end_lost


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 if all went well, 2 for what the user can correct, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show
    goes_on = True
    try:
        words = expanded(underscored(sys.argv[1:] if arguments is None else arguments))
        completed = continued(words)
        parser = build_parser(preset_of(completed))
        given = parsed(parser, completed)
        name, chosen = given.subcommand, given[given.subcommand]
        verb = VERBS[name]
        goes_on = verb.settings and name != "profile"
        if verb.settings:
            if chosen.run and chosen.run != words[1]:
                run = shlex.quote(chosen.run)
                raise ConfigError(f"name the run directly after the verb: nat2 {name} {run} [options]")
            check_settings(chosen)
            chosen = parser.instantiate(given)[name]
        verb.work(chosen)
    except LostProcessError as error:
        end_lost("" if error.reported else str(error))
    except Nat2Error as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        complain(f"interrupted; give the same command again {'to continue' if goes_on else 'to start over'}")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        sys.exit(2)
    sys.exit(0)
