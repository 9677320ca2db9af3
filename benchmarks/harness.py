"""Compare contenders: measure each one in a separate process, in alternation, for several rounds of one run.

A benchmark is a module of this package that defines a `Benchmark`: cases, and the contenders to measure on each case.
Every measurement runs in a new process, so contenders share no memory, threads or caches. Measurements alternate
(A B A B), so other load on the machine affects all contenders. The reported number is the median over rounds. For a
comparison it is the median of the ratios within each round.

Contenders of this project run in this Python. Contenders of other projects run in the environment `.venv-peers`
(`make peers`). Both environments import this module and the modules of the benchmarks, so these import only the standard
library at the top.

Each case prints one line of JSON for each contender and stores it in docs/benchmarks.jsonl. Running a case again replaces
all its earlier results, so all stored results of a case come from the same run. The tables of docs/benchmarks.md are
generated from that file.
"""

import argparse
from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import ctypes
import dataclasses
import gc
from importlib import metadata
import json
import os
import pathlib
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
RESULTS, PAGE = "benchmarks.jsonl", "benchmarks.md"

CONTENDER_FLAG = "--as_contender"
ANSWER = "measured: "
MIB = 2**20

# Packages whose versions the results name, if they are installed.
PACKAGES = "jax flax tensorflow-cpu tensorflow torch torchvision lightly pillow"


class Absent(Exception):
    """Raised by a contender that is not available, with the reason. This counts as a result, not as an error."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A program to measure. `run(options of the case)` runs in a separate process and returns numbers by name."""

    run: Callable[[dict], dict]
    peer: bool = False  # runs in the peers' environment


@dataclasses.dataclass(frozen=True)
class Case:
    """The setting in which contenders are measured.

    Attributes:
      name: of the case, as in the table.
      options: for the contenders, JSON-serialisable. `cores` is the number of cores that they may use (default: all).
      contenders: names, in the order of measurement.
      rounds: the number of measurements of each contender.
      notes: copied into the results unchanged.
    """

    name: str
    options: dict
    contenders: Sequence[str]
    rounds: int
    notes: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Contenders, and how to read their results.

    Attributes:
      name: of the module, and of the table in docs/benchmarks.md.
      contenders: by name.
      value: the name of the number to compare, as the contenders return it.
      more_is_better: True for rates, False for times.
      baselines: the contenders that all are compared with.
      columns: of the table: from the title to a function that formats a result.
    """

    name: str
    contenders: dict[str, Contender]
    value: str
    more_is_better: bool
    baselines: Sequence[str]
    columns: dict[str, Callable[[dict], str]]

    def times_as_fast(self, measured: dict, baseline: dict) -> float:
        ratio = measured[self.value] / baseline[self.value]
        return ratio if self.more_is_better else 1 / ratio


# --- In the process of a contender -----------------------------------------------------------------------------------


def is_contender(benchmark: Benchmark) -> bool:
    """Run the contender for which this process was started, if any. Return whether there was one."""
    if sys.argv[1:2] != [CONTENDER_FLAG]:
        return False
    contender, options = json.loads(sys.argv[2])
    cores = sorted(available_cores())[: options["cores"]]
    if hasattr(os, "sched_setaffinity"):  # before any library has counted the cores
        os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    try:
        answer = benchmark.contenders[contender].run(options)
    except Absent as absent:
        answer = {"absent": str(absent)}
    print(ANSWER + json.dumps(answer | {"versions": versions()}), flush=True)
    return True


def available_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES.split():
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def added_memory(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `call()`, and by how many MiB it raised the peak resident memory of this process.

    Memory that was used and freed earlier would hide part of what the call uses. So this first collects garbage, returns
    freed memory to the system, and resets the peak. Where the system does not support these steps, the result can be too
    small.
    """
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    result = call()
    return result, (peak_memory() - before) / MIB


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def timed(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def time_and_memory(call: Callable[[], Any], repeats: int) -> dict:
    """Measure `call` once as a warm-up and then `repeats` times.

    Returns:
      `seconds`, the median without the warm-up (with `repeats` = 0, the time of the only call), and `added_mib`, the
      added memory over all calls.
    """

    def calls() -> list[float]:
        first, *others = [timed(call) for _ in range(1 + repeats)]
        return others or [first]

    seconds, mib = added_memory(calls)
    return {"seconds": statistics.median(seconds), "added_mib": mib}


# --- In the comparing process ----------------------------------------------------------------------------------------


def make_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", help="measure only these, separated by commas")
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="measurements of each contender (default: %(default)s)"
    )
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs", help="folder for the results and the page")
    parser.add_argument(
        "--peers", type=pathlib.Path, default=ROOT / ".venv-peers", help="environment of the other projects"
    )
    parser.add_argument("--tables", action="store_true", help="measure nothing, only write the table")
    return parser


def numbers(text: str) -> list[int]:
    """Parse the value of a flag such as 512,4096."""
    return [int(number) for number in text.split(",")]


def compete(benchmark: Benchmark, cases: Sequence[Case], args: argparse.Namespace) -> None:
    """Measure every contender on every case; print and store the results; write the table."""
    chosen = args.contenders.split(",") if args.contenders else list(benchmark.contenders)
    unknown = set(chosen) - set(benchmark.contenders)
    if unknown:
        sys.exit(f"--contenders: unknown {', '.join(sorted(unknown))}; choose from {', '.join(benchmark.contenders)}.")
    if any(benchmark.contenders[name].peer for name in chosen) and not python_of(args.peers).exists():
        sys.exit(
            f"{args.peers} does not exist. Run `make peers` to install it, or choose --contenders of this project."
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # this also ends the contender
    for case in cases:
        case = dataclasses.replace(case, contenders=[name for name in case.contenders if name in chosen])
        entries = measure(benchmark, case, args.peers)
        for entry in entries:
            print(json.dumps(entry), flush=True)
        keep(entries, args.docs / RESULTS)
        write_table(benchmark, args.docs)
    if not cases:
        write_table(benchmark, args.docs)


def python_of(environment: pathlib.Path) -> pathlib.Path:
    return environment / "bin" / "python"


def measure(benchmark: Benchmark, case: Case, peers: pathlib.Path) -> list[dict]:
    """Return the results of a case, one for each contender. One that is absent or fails is not measured again."""
    turns: dict[str, list[dict]] = {name: [] for name in case.contenders}
    for round_ in range(case.rounds):
        for name, had in turns.items():
            if had and benchmark.value not in had[-1]:
                continue
            print(f"{benchmark.name}, {case.name}, round {round_ + 1}: {name}", file=sys.stderr, flush=True)
            had.append(take_turn(benchmark, name, case.options, peers))
    common = {"benchmark": benchmark.name, "case": case.name}
    about = case.notes | {"machine": machine(case.options.get("cores"))}
    return [
        common | {"contender": name} | summary(benchmark, had, compared(benchmark, had, turns)) | about
        for name, had in turns.items()
        if had
    ]


def take_turn(benchmark: Benchmark, name: str, options: dict, peers: pathlib.Path) -> dict:
    """Measure one contender in a separate process. Return its numbers, or why there are none."""
    python = python_of(peers) if benchmark.contenders[name].peer else sys.executable
    options = {"cores": len(available_cores())} | options
    command = [python, "-m", f"benchmarks.{benchmark.name}", CONTENDER_FLAG, json.dumps([name, options])]
    before = processor_seconds()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    everyone, mine, whole = (after - earlier for after, earlier in zip(processor_seconds(), before, strict=True))
    answers = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode or not answers:
        print(done.stderr[-4000:], file=sys.stderr, flush=True)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"exit code {done.returncode}: {last}"[:300]}
    return json.loads(answers[-1].removeprefix(ANSWER)) | {
        "others": max(0.0, everyone - mine) / whole if whole else 0.0
    }


def processor_seconds() -> tuple[float, float, float]:
    """Return processor seconds so far: of all processes, of finished children, and in total. Zeros if unknown."""
    stat = pathlib.Path("/proc/stat")
    if not stat.exists():
        return 0.0, 0.0, 0.0
    ticks = [int(number) for number in stat.read_text().split()[1:9]]  # user nice system idle iowait ...
    whole, idle = sum(ticks), ticks[3] + ticks[4]
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    per_second = os.sysconf("SC_CLK_TCK")
    return (whole - idle) / per_second, children.ru_utime + children.ru_stime, whole / per_second


def summary(benchmark: Benchmark, turns: list[dict], comparisons: dict) -> dict:
    """Return the median over rounds of every number, and all rounds of the compared number."""
    last = turns[-1]
    if benchmark.value not in last:
        return last
    medians = {
        key: rounded(statistics.median(turn[key] for turn in turns)) if isinstance(value, int | float) else value
        for key, value in last.items()
    }
    versions = medians.pop("versions")
    return medians | {
        "others": rounded(max(turn["others"] for turn in turns)),  # largest share of other processes in one measurement
        "rounds": [rounded(turn[benchmark.value]) for turn in turns],
        "times_as_fast_as": comparisons,
        "versions": versions,
    }


def compared(benchmark: Benchmark, mine: list[dict], turns: dict[str, list[dict]]) -> dict:
    """Return for each other baseline how many times as fast: the ratio of each round, and their median."""
    found = {}
    for baseline in benchmark.baselines:
        pairs = zip(mine, turns.get(baseline, []), strict=False)
        ratios = [
            rounded(benchmark.times_as_fast(*pair)) for pair in pairs if all(benchmark.value in turn for turn in pair)
        ]
        if ratios and turns[baseline] is not mine:
            found[baseline] = {"median": rounded(statistics.median(ratios)), "rounds": ratios}
    return found


def rounded(number: float) -> float:
    return float(f"{number:.5g}")


def machine(cores: int | None) -> str:
    """Describe the processor and how many of its cores were used, without the name of the machine."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    preloaded = [pathlib.Path(path).name for path in os.environ.get("LD_PRELOAD", "").split(":") if path]
    tuned = [os.environ["GLIBC_TUNABLES"]] if "GLIBC_TUNABLES" in os.environ else []
    with_allocator = f", with {', '.join(preloaded + tuned)}" if preloaded or tuned else ""
    there = len(available_cores())
    return f"{model}, {min(cores or there, there)} of {there} cores, {platform.system()}{with_allocator}"


# --- Results and page ------------------------------------------------------------------------------------------------


def read(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(entries: list[dict], path: pathlib.Path) -> None:
    """Store the results of a case and remove its earlier ones."""
    cases: dict[tuple[str, str], list[dict]] = {}
    for entry in read(path):
        cases.setdefault((entry["benchmark"], entry["case"]), []).append(entry)
    cases |= {(entry["benchmark"], entry["case"]): entries for entry in entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for case in cases.values() for entry in case))


def write_table(benchmark: Benchmark, docs: pathlib.Path) -> None:
    """Replace the text between the markers of the benchmark in docs/benchmarks.md."""
    page = docs / PAGE
    if not page.exists():
        page.write_text((ROOT / "docs" / PAGE).read_text())
    begin, end = f"<!-- {benchmark.name} -->\n", f"<!-- end of {benchmark.name} -->"
    head, _, rest = page.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    entries = [entry for entry in read(docs / RESULTS) if entry["benchmark"] == benchmark.name]
    page.write_text(head + begin + (table(benchmark, entries) if entries else "") + end + tail)


def table(benchmark: Benchmark, entries: list[dict]) -> str:
    columns = {"case": lambda entry: entry["case"], "contender": lambda entry: entry["contender"]} | benchmark.columns
    rows = [list(columns), [":-" if name in ("case", "contender") else "-:" for name in columns]]
    for entry in entries:
        reason = "absent" if "absent" in entry else "failed" if "failed" in entry else None
        if reason:
            print(f"{entry['case']}, {entry['contender']}: {reason}: {entry[reason]}", file=sys.stderr)
            rows.append([entry["case"], entry["contender"], reason] + [""] * (len(columns) - 3))
        else:
            rows.append([cell(entry) for cell in columns.values()])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = dict.fromkeys(f"{entry['machine']}; {entry['versions']}" for entry in entries if "versions" in entry)
    busy = max((entry["others"] for entry in entries if "others" in entry), default=0.0)
    about[f"Other processes took up to {busy:.0%} of the machine's processor time during a measurement."] = None
    return "\n".join([*lines, "", *(f"- {line}" for line in about)]) + "\n"


def shown(form: str, key: str) -> Callable[[dict], str]:
    """Return a column that formats a number of the result, or is empty if there is none."""
    return lambda entry: form.format(entry[key]) if key in entry else ""


def times_as_fast_as(baseline: str) -> Callable[[dict], str]:
    """Return a column: how many times as fast as a baseline, with the smallest and largest ratio of a round."""

    def column(entry: dict) -> str:
        if baseline not in entry["times_as_fast_as"]:
            return ""
        ratio = entry["times_as_fast_as"][baseline]
        return f"{ratio['median']:.2f} ({min(ratio['rounds']):.2f} to {max(ratio['rounds']):.2f})"

    return column
