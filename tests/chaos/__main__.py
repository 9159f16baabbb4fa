"""`python -m tests.chaos --seed 1 --rounds 20`: the fault campaign. Exits 1 where anything was lost or doubled."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos.campaign import Report, run_campaign
from tests.chaos.system import PAUSE_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides the faults and their order")
    parser.add_argument("--rounds", type=int, default=20, help="how many faults, one after the other")
    parser.add_argument("--only", default="", help="only faults whose names begin with this, such as pause")
    parser.add_argument(
        "--pause-s",
        type=float,
        nargs=2,
        default=PAUSE_S,
        metavar=("FROM", "TO"),
        help="how long pauses are, in seconds",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="trade-engine-chaos-"))
    folder.chmod(0o755)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=options.rounds)

        def on_round(report: Report, name: str) -> None:
            progress.update(task, completed=report.rounds, description=name)

        how = {"only": options.only, "pause_s": tuple(options.pause_s), "on_round": on_round}
        report = asyncio.run(run_campaign(folder, seed=options.seed, rounds=options.rounds, **how))
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        for finding in report.findings:
            print(finding)
        print(report.line())
    if report.passed:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"seed {options.seed}; the logs are in {folder / 'logs'}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
