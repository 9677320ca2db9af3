"""Prepare all images: start or continue, in parallel processes, then write the index of each split."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import json
import logging
import multiprocessing
import os
import re
import threading
import time
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.data.records.files import forget_listings
from simclr_jax.data.records.files import map_of
from simclr_jax.data.records.index import MANIFEST
from simclr_jax.data.records.index import UNFINISHED
from simclr_jax.data.records.index import VERSION
from simclr_jax.data.records.index import Index
from simclr_jax.data.records.index import Names
from simclr_jax.data.records.index import read_manifest
from simclr_jax.errors import UserError
from simclr_jax.preparing import shards
from simclr_jax.preparing.earlier import is_complete
from simclr_jax.preparing.earlier import paths_in
from simclr_jax.preparing.inputs import Inputs
from simclr_jax.runtime import files
from simclr_jax.runtime.heartbeat import working

log = logging.getLogger("simclr_jax")

# Writes the files of all tasks and yields, for each, its number of images and lines about unreadable ones.
RunTasks = Callable[[list[shards.Task]], Iterable[tuple[int, list[str]]]]
# Up to this many classes may have no image, as in a part of a large data set.
PLENTY_OF_CLASSES = 100_000
# Unreadable images that are named.
SHOWN = 20


def prepare(
    inputs: Inputs, output: epath.Path, shorter_side: int, run_tasks: RunTasks, overwrite: bool
) -> dict[str, Any]:
    """Writes the records of all splits to a folder, or continues.

    Args:
      inputs: the images.
      output: the folder.
      shorter_side: at most this many pixels; 0: any size.
      run_tasks: `in_processes` or one for Apache Beam.
      overwrite: remove earlier records with other facts.

    Returns:
      The content of `records.json`.

    Raises:
      UserError: where the folder holds something else, or no image can be read.
    """
    facts = json.loads(json.dumps(inputs.facts | {"shorter_side": shorter_side}))
    if is_complete(output, facts, inputs.changed, overwrite):
        log.info("%s is complete: nothing to do.", output)
        return read_manifest(str(output))
    tasks = {
        split: [
            shards.Task(unit, str(output / split), number, len(units), shorter_side)
            for number, unit in enumerate(units)
        ]
        for split, units in inputs.splits.items()
    }
    for split in tasks:
        (output / split).mkdir(parents=True, exist_ok=True)
        _remove_unfinished(output / split)
    files.write_atomically(output / UNFINISHED, json.dumps(facts, indent=1).encode())
    _run(tasks, run_tasks)
    return _finish(inputs, output, tasks, facts)


def _remove_unfinished(folder: epath.Path) -> None:
    """What a killed process was writing."""
    for path in paths_in(folder):
        if path.name.startswith(".writing-"):
            files.remove(path)


def _run(tasks: dict[str, list[shards.Task]], run_tasks: RunTasks) -> None:
    every = [task for of_split in tasks.values() for task in of_split]
    folders = {task.folder for task in every}
    there = {os.path.join(folder, path.name) for folder in folders for path in paths_in(epath.Path(folder))}
    rest = [task for task in every if task.table_path not in there]
    if len(rest) < len(every):
        log.info("Continuing after %d of %d files of records.", len(every) - len(rest), len(every))
    images, bad, began = 0, 0, time.monotonic()
    with working("preparing", len(rest), "files of records") as work:
        for number, unreadable in run_tasks(rest):
            work.did()
            images += number
            for line in unreadable[: max(0, SHOWN - bad)]:
                log.warning("Left out: %s", line)
            bad += len(unreadable)
    seconds = max(time.monotonic() - began, 1e-9)
    log.info("%d images in %.0f s, %.0f images/s; %d cannot be read.", images, seconds, images / seconds, bad)


def in_processes(number: int) -> RunTasks:
    """Runs tasks in parallel processes of this machine."""

    def run(tasks: list[shards.Task]) -> Iterator[tuple[int, list[str]]]:
        if number == 1:
            yield from map(shards.write, tasks)
            return
        # Not forked: TensorFlow has threads by now.
        context = multiprocessing.get_context("spawn")
        with futures.ProcessPoolExecutor(
            min(number, max(1, len(tasks))), context, initializer=_follow_parent, initargs=(os.getpid(),)
        ) as pool:
            waiting = [pool.submit(shards.write, task) for task in tasks]
            try:
                for done in futures.as_completed(waiting):
                    yield done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return run


def _follow_parent(parent: int) -> None:
    """Ends this process soon after its parent was killed: else it would go on, beside those of the next command."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="follow parent").start()


def _finish(
    inputs: Inputs, output: epath.Path, tasks: dict[str, list[shards.Task]], facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes the index of each split, then `records.json`, and removes the tables of the single files."""
    forget_listings(str(output))
    tables = {}
    for split, of_split in tasks.items():
        paths = [task.table_path for task in of_split]
        tables[split] = list(map_of(paths)(shards.Table.load, paths))
    found = [value for of in tables.values() for table in of for value in table.label_values]
    _check_labels(found, sum(len(table.begins) for of in tables.values() for table in of))
    guessed, numbered = _class_names(found), all(isinstance(value, int) for value in found)
    splits = {}
    for split, of in tables.items():
        names = inputs.class_names[split] or guessed
        index = _index(split, of, names, numbered or inputs.class_names[split] is not None)
        if not len(index):
            lines = [line for table in of for line in table.unreadable]
            raise UserError(
                f"none of the images of the split {split} can be read, such as {lines[0] if lines else 'none'}."
            )
        index.save(output / split)
        splits[split] = {
            "images": len(index),
            "unreadable": sum(len(table.unreadable) for table in of),
            "bytes": int(index.sizes.sum(dtype=np.int64)),
            "class_names": names if index.labels is not None else None,
        }
    manifest = {"version": VERSION, "facts": facts, "splits": splits}
    files.write_atomically(output / MANIFEST, json.dumps(manifest, indent=1).encode())
    for of_split in tasks.values():
        for task in of_split:
            files.remove(epath.Path(task.table_path))
    with contextlib.suppress(FileNotFoundError):
        (output / UNFINISHED).unlink()
    return manifest


def _index(split: str, tables: list[shards.Table], names: list[str], numbered: bool) -> Index:
    labels = [_numbers(table, names, numbered) for table in tables]
    joined = np.concatenate(labels)
    without = int((joined < 0).sum())
    if 0 < without < len(joined):
        log.warning("%s: no labels are used, because %d of its images have none.", split, without)
    counts = [len(table.begins) for table in tables]
    return Index(
        begins=np.concatenate([table.begins for table in tables]),
        sizes=np.concatenate([table.sizes for table in tables]),
        labels=None if without else joined,
        names=Names.join([table.names for table in tables]),
        file_ends=np.cumsum(counts, dtype=np.int64),
        file_bytes=np.array([table.file_bytes for table in tables], np.int64),
    )


def _numbers(table: shards.Table, names: list[str], numbered: bool) -> np.ndarray:
    """The class number of each image of a file, int32; -1 for none. `numbered`: whether numbers among the labels are these."""
    rows = {name: row for row, name in enumerate(names)}
    values = [
        value if numbered and isinstance(value, int) and value < len(names) else rows.get(str(value), -1)
        for value in table.label_values
    ]
    return np.array([*values, -1], np.int32)[table.labels]


def _check_labels(values: list[str | int], images: int) -> None:
    """Refuses numbers of classes that can only be a mistake: there would be more classes than `PLENTY_OF_CLASSES` and images.

    Raises:
      UserError: with the largest number.
    """
    largest = max((value for value in values if isinstance(value, int)), default=0)
    if largest >= max(images, PLENTY_OF_CLASSES):
        raise UserError(
            f"--images: a label is {largest}, which makes {largest + 1:,} classes, but there are {images:,} images, of "
            f"{len(set(values)):,} classes. Labels are 0, 1, ...: less than the number of images or than "
            f"{PLENTY_OF_CLASSES:,}."
        )


def _class_names(values: list[str | int]) -> list[str]:
    """The names of the classes, from all labels: numbers 0, 1, ... up to the largest one, or names in order."""
    distinct = set(values)
    if distinct and all(isinstance(value, int) for value in distinct):
        return [str(number) for number in range(max(map(int, distinct)) + 1)]
    # 2 before 10.
    return sorted(
        map(str, distinct),
        key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)],
    )
