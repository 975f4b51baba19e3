"""P12: `docendo --help`; reference: `python -c "import typer"`. Whole processes, so wall seconds of both."""

import subprocess
import sys
from pathlib import Path

from _harness import Bar, Options, Part, alternate, ratios, seconds, shown


def measure(options: Options) -> Bar:
    """Starts both in turn."""

    def start(*command: str):
        return lambda _: seconds(lambda: subprocess.run(command, check=True, capture_output=True))

    costs = alternate(
        {
            "docendo --help": start(str(Path(sys.executable).with_name("docendo")), "--help"),
            "import typer": start(sys.executable, "-c", "import typer"),
        },
        rounds=options.rounds(15),
    )
    part = Part(
        name="docendo --help: time over import typer's",
        target=3.0,
        at_most=True,
        ratios=ratios(costs["docendo --help"], costs["import typer"]),
    )
    return Bar(name="P12", parts=[part], detail={"seconds": shown(costs)})
