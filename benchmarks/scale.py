"""Plan the paper's settings on TPU slices with `simclr_jax.plan`; write docs/scale.jsonl and the tables of docs/scale.md.

    python -m benchmarks.scale              # takes hours on two cores; compiles only what docs/scale.jsonl lacks
    python -m benchmarks.scale --tables     # writes only the tables, from docs/scale.jsonl

After a change of the step, remove docs/scale.jsonl, or mark its entries with `"older": true`. Marked entries have a star in
the tables until they are compiled again.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

from simclr_jax.errors import EXIT_COMPILER_CRASHED

DOCS = pathlib.Path(__file__).parent.parent / "docs"
RESULTS, PAGE = DOCS / "scale.jsonl", DOCS / "scale.md"

# Fields that are empty if the compiler crashes.
KEYS = ("chips", "batch_per_chip", "step_ms", "collective_ms", "utilisation", "images_per_s", "hours", "collectives")

IMAGENET = "configs/imagenet.py"

# Table, config, further flags, topologies. The most informative ones come first.
CASES = [
    ("growth", IMAGENET, "--batch_per_chip=64", "v5e:4x4"),
    ("authors", f"{IMAGENET}:epochs=100", "", "v3:8x8 v3:4x4"),
    ("paper", f"{IMAGENET}:epochs=1000", "", "v4:4x4x4"),
    ("paper", f"{IMAGENET}:width=4,epochs=1000", "", "v5e:16x16"),
    *(("memory", IMAGENET, f"--config.remat={remat}", "v5e:4x4") for remat in ("block", "stage")),
    ("memory", IMAGENET, "--config.microbatches=32", "v5e:1x1"),
    *(("memory", IMAGENET, f"--config.microbatches={parts}", "v5e:4x4") for parts in (1, 4, 16)),
    ("growth", IMAGENET, "--batch_per_chip=64", "v5e:16x16 v4:2x2x4 v4:8x8x16"),
    ("paper", f"{IMAGENET}:epochs=1000", "", "v5e:8x8 v5p:4x4x4"),
    ("paper", f"{IMAGENET}:width=4,epochs=1000", "", "v4:4x8x8 v5p:4x4x8 v6e:16x16"),
    ("paper", f"{IMAGENET}:width=2,epochs=1000", "", "v5e:16x16 v4:4x4x8 v5p:4x4x4 v6e:8x16"),
    ("fsdp", f"{IMAGENET}:depth=152,width=3,epochs=1000", "", "v5e:16x16"),
    ("fsdp", f"{IMAGENET}:depth=152,width=3,epochs=1000", "--config.mesh.fsdp=8", "v5e:16x16"),
    *(("memory", IMAGENET, f"--config.microbatches={parts}", "v5e:4x4") for parts in (2, 8)),
    ("growth", IMAGENET, "--batch_per_chip=64", "v4:4x8x8"),
    ("paper", f"{IMAGENET}:epochs=1000", "", "v6e:8x8"),
]


def measure() -> None:
    """Compile the cases that docs/scale.jsonl lacks."""
    known = {_key(entry) for entry in read() if "older" not in entry}
    for kind, config, flags, topologies in CASES:
        for topology in topologies.split():
            if (config, flags, topology) in known:
                continue
            command = [
                sys.executable,
                "-m",
                "simclr_jax.plan",
                f"--config={config}",
                f"--topology={topology}",
                "--json",
            ]
            done = subprocess.run([*command, *flags.split()], stdout=subprocess.PIPE, text=True)
            entry: dict[str, Any] = {"table": kind, "config": config, "flags": flags}
            if done.returncode == EXIT_COMPILER_CRASHED:  # a crash is a result, too
                entry |= dict.fromkeys(KEYS) | {"topology": topology, "crashed": True}
            else:
                done.check_returncode()
                entry |= json.loads(done.stdout)
            with RESULTS.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def read() -> list[dict]:
    """Return the last entry of each case."""
    entries = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return list({_key(entry): entry for entry in entries}.values())


def _key(entry: dict) -> tuple:
    return entry["config"], entry["flags"], entry["topology"]


def network(entry: dict) -> str:
    fsdp = setting(entry, "fsdp", "")
    return f"ResNet-{setting(entry, 'depth', '50')} ({setting(entry, 'width', '1')}x)" + (
        f", fsdp={fsdp}" if fsdp else ""
    )


def setting(entry: dict, name: str, default: str) -> str:
    """Return the value of `name` in the arguments of the config or in the flags."""
    found = re.search(rf"\b{name}=([^, ]+)", f"{entry['config']} {entry['flags']}")
    return found[1] if found else default


def version(entry: dict) -> str:
    return entry["topology"].partition(":")[0]


def megabytes(entry: dict) -> float:
    return sum(found["bytes"] for found in (entry["collectives"] or {}).values()) / 1e6


def collectives(entry: dict) -> str:
    return ", ".join(f"{kind} {found['count']}" for kind, found in sorted((entry["collectives"] or {}).items()))


def table(entries: list[dict], columns: dict) -> str:
    rows = [list(columns), [":-" if name in ("network", "slice", "remat", "collectives") else "-:" for name in columns]]
    rows += [[str(cell(entry)) for cell in columns.values()] for entry in entries]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def shown(form: str, key: str):
    return lambda entry: "-" if entry[key] is None else form.format(entry[key])


COLUMNS = {
    "network": network,
    "slice": lambda entry: entry["topology"] + (" *" if "older" in entry else ""),
    "chips": shown("{}", "chips"),
    "images/chip": shown("{}", "batch_per_chip"),
    "micro-batches": lambda entry: setting(entry, "microbatches", "1"),
    "remat": lambda entry: setting(entry, "remat", "none"),
    "HBM GiB": lambda entry: "-" if "crashed" in entry else f"{entry['hbm_gib']:.1f} of {entry['hbm_limit_gib']:.1f}",
    "fits": lambda entry: "compiler crashes" if "crashed" in entry else "yes" if entry["fits"] else "**no**",
    "step ms": shown("{:.0f}", "step_ms"),
    "collective ms": shown("{:.1f}", "collective_ms"),
    "utilisation": shown("{:.0%}", "utilisation"),
    "images/s": shown("{:,.0f}", "images_per_s"),
    "hours": shown("{:.1f}", "hours"),
    "collectives": collectives,
    "MB": lambda entry: f"{megabytes(entry):.0f}" if entry["collectives"] else "-",
}


# For each table: the columns to omit, and the order of the rows.
TABLES = {
    "authors": ("micro-batches remat collectives MB", lambda entry: -(entry["chips"] or 0)),
    "paper": ("micro-batches remat", lambda entry: (network(entry), version(entry), entry["chips"] or 0)),
    "memory": (
        "network hours collectives MB",
        lambda entry: (-(entry["chips"] or 0), setting(entry, "remat", ""), int(setting(entry, "microbatches", "1"))),
    ),
    "growth": ("network hours micro-batches remat", lambda entry: (version(entry), entry["chips"] or 0)),
    "fsdp": ("micro-batches remat", network),
}


def write_tables() -> None:
    """Replace the text between the markers of each table in docs/scale.md."""
    text, entries = PAGE.read_text(), read()
    for kind, (hidden, order) in TABLES.items():
        begin, end = f"<!-- {kind} -->\n", f"\n<!-- end of {kind} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        chosen = sorted((entry for entry in entries if entry["table"] == kind), key=order)  # type: ignore[arg-type]
        columns = {name: cell for name, cell in COLUMNS.items() if name not in hidden.split()}
        text = head + begin + table(chosen, columns) + end + tail
    PAGE.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="compile nothing, only write the tables")
    if not parser.parse_args().tables:
        measure()
    write_tables()


if __name__ == "__main__":
    main()
