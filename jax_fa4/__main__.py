"""`python -m jax_fa4`: this machine, a self-check, and a small GPT trained on real text."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

EXTRAS = ("flax", "optax", "rich", "matplotlib")
DEFAULT_SECONDS = 60
LEAST_STEPS = 10  # fewer show no trend


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; the exit code is 0 if nothing failed."""
    options = parse(arguments)
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"python -m jax_fa4 needs {', '.join(missing)}, which the extra `demo` installs:\n"
            "    pip install '.[demo]'        (in a checkout of jax_fa4)\n"
            f"    pip install {' '.join(missing)}",
            file=sys.stderr,
        )
        return 2
    from jax_fa4.demo import program

    return program.run(**vars(options))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as the arguments of `program.run`."""
    parser = argparse.ArgumentParser(prog="python -m jax_fa4", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=_at_least(1),
        default=DEFAULT_SECONDS,
        help="time for training, all runs together (default: %(default)s); the number of steps "
        "follows from a measurement",
    )
    parser.add_argument(
        "--steps", type=_at_least(LEAST_STEPS), help="steps to train, instead of --seconds"
    )
    parser.add_argument(
        "--seed", type=_at_least(0), default=0, help="of parameters and data (default: 0)"
    )
    parser.add_argument(
        "--output", type=_folder, default=Path(), help="folder for the plot (default: this one)"
    )
    parser.add_argument(
        "--no-train", dest="train", action="store_false", help="report and self-check only"
    )
    return parser.parse_args(arguments)


def _at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` up; argparse makes a message of its error."""

    def whole_number(word: str) -> int:
        value = int(word)
        if value < least:
            raise argparse.ArgumentTypeError(f"{word} is below {least}")
        return value

    return whole_number


def _folder(word: str) -> Path:
    """A folder that exists or may be made."""
    path = Path(word)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{word} is not a folder")
    return path


if __name__ == "__main__":
    sys.exit(main())
