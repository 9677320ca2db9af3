"""Read and mend `metrics.jsonl`, a line of JSON for each logged step."""

import json
import logging
import operator
from typing import Any

from etils import epath

from simclr_jax.runtime import files

log = logging.getLogger("simclr_jax")


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The lines, ascending by step. Of several lines of one step the last one counts; other lines are left out.

    So are values that are no numbers, with a warning.
    """
    lines = _parse(path.read_bytes())[0]
    numbers = [{key: value for key, value in line.items() if isinstance(value, int | float)} for line in lines]
    if any(map(operator.ne, map(len, numbers), map(len, lines))):
        steps = [line["step"] for line, kept in zip(lines, numbers, strict=True) if line.keys() != kept.keys()]
        log.warning("%s has values that are no numbers, at step %d first: they are left out.", path, steps[0])
    return numbers


def mend(path: epath.Path, step: int) -> None:
    """Prepares the file for a run that continues after `step`: each earlier step has one line, and there is nothing else.

    Later steps are removed, because the run writes them again. If something else is lost with them, such as a line that a
    crash has torn or another program has written, the file as it was is kept beside it.
    """
    content = path.read_bytes() if path.exists() else b""
    lines, foreign = _parse(content)
    kept = [line for line in lines if line["step"] <= step]
    new = "".join(json.dumps(line) + "\n" for line in kept).encode()
    if foreign:
        saved = path.parent / f"{path.stem}.damaged{path.suffix}"
        files.write_atomically(saved, content)
        log.warning("%s had %d lines that are no metrics: they are left out, and %s has them.", path, foreign, saved)
    last = kept[-1]["step"] if kept else 0
    if last < step:
        log.warning(
            "%s ends at step %d, but the run continues from step %d: the metrics between are lost.", path, last, step
        )
    if new != content or not path.exists():
        files.write_atomically(path, new)


def _parse(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The lines of metrics by step, and how many other lines there are, besides a last one that was only half written."""
    by_step: dict[int, dict[str, Any]] = {}
    foreign = 0
    texts = content.split(b"\n")
    for number, text in enumerate(texts):
        line = _line_of(text)
        if line is not None:
            by_step[line["step"]] = line
        else:
            # After the last line break there is nothing, or what a kill has left.
            foreign += number + 1 < len(texts) and bool(text.strip())
    return [by_step[step] for step in sorted(by_step)], foreign


def _line_of(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:  # not UTF-8, or not JSON
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None
