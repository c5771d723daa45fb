"""Rollouts killed with kill -9 at random moments, with callers that never stop, and what the next command makes of it.

    python bench/kills.py [--kills 1000] [--minutes 0] [--seed 1] [--rate 200]

Each round rolls a version out, in a process of its own that is killed after a random time; then another command follows: the same version,
another one, going on, or an abort. It may be killed as well. After every kill and after every command it is checked that

- no caller got anything but 200,
- the weights sum to 100 on disk, and the server has somebody ready to answer,
- the audit trail is whole,
- a command that finds an open rollout says whether it resumes or restores, and at its end one deployment has all the traffic: the one that
  the rule names.

The first violation ends the run with exit code 1 and leaves the state folder for inspection.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from brookside_mlops.audit import AuditLog, audit_log
from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.load import Outcome
from brookside_mlops.replay import ReplayTraffic
from brookside_mlops.rollout import Context, Record
from brookside_mlops.rollout_driver import go_on, roll_out
from brookside_mlops.rollout_plan import Plan, Target
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.scratch import scratch_bundle
from brookside_mlops.smoke import smoke

NAME = "cost-bench"
VERSIONS = 4
BODIES = [json.dumps([{"weeks": number}]).encode() for number in range(10)]
ONE = multiprocessing.get_context("forkserver")
ONE.set_forkserver_preload(
    ["brookside_mlops.rollout_driver", "brookside_mlops.smoke", "scipy.stats", "onnxruntime"]
)
Command = Literal["deploy", "go on", "abort"]


def plan(strategy: str) -> Plan:
    """Return a plan whose bakes take a tenth of a second."""
    rules = {"margin": 1.0, "error_seconds": 1e6, "availability_seconds": 1e6, "latency_seconds": 1e6}
    steps = (10, 50, 100) if strategy == "canary" else (100,)
    given = {"strategy": strategy, "steps": steps, "bake": 0.1, "look": 0.02, "pause": 0.02, "rules": rules}
    return Plan.model_validate(given)


def context_of(folder: Path) -> Context:
    """Return what drives a rollout of the endpoint."""
    log = audit_log(folder)

    def audit(event: str, details: Mapping[str, Any]) -> None:
        log.append(event, NAME, details)  # type: ignore[arg-type]

    return Context(LocalEndpoint(folder, NAME), RolloutStore(folder), smoke, audit)


def work(folder: Path, command: Command, strategy: str, target: Target, results: Any) -> None:
    """Do one command, in a process of its own."""
    context = context_of(folder)
    context.endpoint.start()
    if command == "deploy":
        record: Record | None = roll_out(context, plan(strategy), target)
    else:
        record = go_on(context, "abort" if command == "abort" else "", "bench")
    results.put(record.model_dump_json() if record else "")


class Callers(ReplayTraffic):
    """Callers that never stop; what did not end well is kept."""

    bad: tuple[Outcome, ...] = ()

    def _record(self, outcome: Outcome) -> None:
        super()._record(outcome)
        if outcome.category != "ok":
            self.bad = (*self.bad, outcome)


class Violated(Exception):
    """Something that must hold does not."""


def must(holds: object, what: str, *seen: object) -> None:
    """Raise Violated unless something holds."""
    if not holds:
        raise Violated(f"{what}: {' '.join(map(str, seen))}")


@dataclass
class Bench:
    """The endpoint, its callers, and what was counted."""

    folder: Path
    targets: list[Target]
    callers: Callers
    dice: random.Random
    log: AuditLog
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    kills: int = 0
    early: int = 0
    commands: int = 0
    longest: dict[str, float] = field(default_factory=lambda: {"canary": 1.5, "blue-green": 1.0})

    @property
    def endpoint(self) -> LocalEndpoint:
        """The endpoint as another command sees it."""
        return LocalEndpoint(self.folder, NAME)

    def open_record(self) -> Record | None:
        """Return the rollout that is open."""
        row = RolloutStore(self.folder).last(NAME)
        return Record.model_validate_json(row.document) if row and row.open else None

    def weights(self) -> dict[str, int]:
        """Return the weights on disk."""
        with closing(sqlite3.connect(self.endpoint.state.folder / "state.db")) as database:
            return dict(database.execute("select name, weight from deployment").fetchall())

    def serving(self) -> Target:
        """Return the version that has most traffic."""
        known = self.endpoint.state.deployments()
        best = max(known.values(), key=lambda one: one.weight)
        return next(one for one in self.targets if one.version == best.version)

    def check(self) -> None:
        """Check what must hold at any time."""
        must(not self.callers.bad, "callers were not answered", *self.callers.bad[:3])
        weights = self.weights()
        must(sum(weights.values()) == 100, "weights do not sum to 100", weights)
        states = self.endpoint.health()
        must(states is not None, "the server does not answer")
        ready = [name for name, weight in weights.items() if weight and (states or {}).get(name) == "ready"]
        must(ready, "nobody is ready to answer", weights, states)
        verified = self.log.verify()
        must(verified.intact, "the audit trail is not whole", *verified.faults)

    def run(self, command: Command, target: Target, strategy: str, kill_after: float | None) -> Record | None:
        """Run a command, killed after some time or not at all; return its record, None for one that was killed."""
        was, rows = self.open_record(), len(self.log.rows(NAME))
        before = self.serving()
        results = ONE.SimpleQueue()
        process = ONE.Process(target=work, args=(self.folder, command, strategy, target, results))
        begun = time.monotonic()
        process.start()
        if kill_after is not None:
            process.join(kill_after)
            if process.exitcode is None:
                process.kill()
                process.join()
                self.kills += 1
                self.check()
                return None
            self.early += 1
        process.join()
        must(process.exitcode == 0, "the command failed", process.exitcode, command)
        if command == "deploy" and was is None:  # a kill is to come at any moment of a whole rollout
            self.longest[strategy] += 0.3 * (time.monotonic() - begun - self.longest[strategy])
        self.commands += 1
        self.check()
        text = results.get()
        record = Record.model_validate_json(text) if text else None
        said = [str(row.details.get("text", "")) for row in self.log.rows(NAME, after=rows)]
        self.check_end(command, target, before, was, record, said)
        return record

    def check_end(  # noqa: PLR0913, PLR0917 - what was, what was asked for, and what came of it
        self,
        command: Command,
        target: Target,
        before: Target,
        was: Record | None,
        record: Record | None,
        said: list[str],
    ) -> None:
        """Check that a command did what the rule says."""
        weights = self.weights()
        must(sorted(weights.values())[-1] == 100, "no deployment has all the traffic", weights)
        must(self.open_record() is None, "a rollout is still open", said)
        serves = self.serving().version
        if was is None:
            must(command != "deploy" or serves == target.version, "another version serves", serves, said)
            must(command == "deploy" or (record is None and serves == before.version), "it moved", said)
            self.found["nothing open", "begun" if command == "deploy" else "left alone"] += 1
            return
        ways = [text for text in said if text.startswith(f"found in state {was.state}")]
        must(len(ways) == 1, "it does not say what it found", was.state, said)
        way = "resumed" if "resumed" in ways[0] else "restored"
        back = was.state == "restore" or (
            command == "deploy" and was.target != target and was.state != "finish"
        )
        gone = "is gone" in ways[0]
        must(
            way == ("restored" if back or gone else "resumed") or was.state == "restore",
            "rule",
            ways,
            command,
        )
        if command == "deploy":
            must(serves == target.version, "another version serves", serves, target.version, said)
        elif back or gone or (command == "abort" and was.state != "finish"):
            must(was.replaces and serves == was.replaces.version, "not as before", serves, said)
        else:
            must(serves == was.target.version, "the resumed version does not serve", serves, said)
        self.found[was.state, way] += 1

    def round(self) -> None:
        """Kill a rollout, and let other commands follow."""
        strategy = self.dice.choice(["canary", "canary", "blue-green"])
        serves = self.serving()
        target = self.dice.choice([one for one in self.targets if one != serves])
        self.run("deploy", target, strategy, self.dice.uniform(0, self.longest[strategy]))
        while True:
            command: Command = self.dice.choice(["deploy", "deploy", "go on", "abort"])
            wanted = self.dice.choice([target, self.dice.choice(self.targets)])
            if self.open_record() is None and wanted == self.serving():
                command = "go on"
            if self.dice.random() < 0.7:
                self.run(command, wanted, strategy, None)
                return
            self.run(command, wanted, strategy, self.dice.uniform(0, self.longest[strategy]))


def prepared(folder: Path, dice: random.Random, rate: float) -> Bench:
    """Return an endpoint with a first version and callers."""
    targets = []
    for version in range(1, VERSIONS + 1):
        bundle = scratch_bundle(folder / "bundles" / str(version), version)
        digest = Bundle.open(bundle).info.sha256
        targets.append(Target(bundle=bundle, model_name="m", version=version, sha256=digest))
    state = folder / "state"
    context = context_of(state)
    context.endpoint.start()
    roll_out(context, plan("canary"), targets[0])
    endpoint = LocalEndpoint(state, NAME)
    callers = Callers(endpoint.show_uri(), endpoint.keys()[0], BODIES, rate)
    return Bench(state, targets, callers, dice, audit_log(state))


def table(bench: Bench, seconds: float) -> str:
    """Return what was counted."""
    states = ("nothing open", "create", "smoke", "shift", "bake", "finish", "restore")
    ways = ("begun", "left alone", "resumed", "restored")
    lines = ["found".ljust(14) + "".join(way.rjust(12) for way in ways)]
    for state in states:
        counts = [bench.found[state, way] for way in ways]
        lines.append(state.ljust(14) + "".join(f"{count or '-':>12}" for count in counts))
    asked = sum(bench.callers.counts.values())
    return "\n".join(
        [
            *lines,
            f"kill -9                     {bench.kills:10,}   ({bench.early:,} commands had ended before theirs)",
            f"commands that ran to an end {bench.commands:10,}",
            f"requests of callers         {asked:10,}   failed: {len(bench.callers.bad)}",
            f"rows of the audit trail     {len(bench.log.rows()):10,}   whole: {bench.log.verify().intact}",
            f"seconds                     {seconds:10,.0f}   ({seconds / max(bench.kills, 1):.2f} a kill)",
        ]
    )


def main() -> None:
    """Kill, check, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument(
        "--minutes", type=float, default=0, help="end after so many minutes, whatever was reached"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="brookside-kills-"))
    bench = prepared(folder, random.Random(options.seed), options.rate)
    begun = time.monotonic()
    whole = False
    try:
        with bench.callers:
            while bench.kills < options.kills:
                bench.round()
                if options.minutes and time.monotonic() - begun > 60 * options.minutes:
                    break
        bench.check()
        whole = True
    except Violated as violated:
        print(f"VIOLATED: {violated}\nseed {options.seed}; the state is in {folder}", file=sys.stderr)
    finally:
        print(table(bench, time.monotonic() - begun))
        bench.endpoint.stop()
    if not whole:
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
