"""One run at a time in a workdir: two of them would mix their checkpoints and metrics.

On a file system it is a lock of the system, which a process holds for as long as it lives: a killed one never blocks the next.
A bucket has no locks: there it is a lease that is renewed every minute and expires after five.
"""

from collections.abc import Iterator
import contextlib
import datetime
import json
import logging
import os
import secrets
import socket
import threading
import time

from etils import epath

from simclr_jax.errors import UserError
from simclr_jax.runtime import distributed
from simclr_jax.runtime import files

log = logging.getLogger("simclr_jax")

NAME = ".lock"
RENEW_SECONDS, EXPIRE_SECONDS = 60.0, 300.0


@contextlib.contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """Holds a workdir inside the `with` block. All processes of a job call it; process 0 holds it for all of them.

    Raises:
      UserError: on all of them, where another run has it.
    """
    with contextlib.ExitStack() as stack:
        owner = ""
        if distributed.is_primary():
            stack.enter_context(_made(workdir))
            owner = stack.enter_context((_lock if _has_locks(workdir) else _lease)(workdir))
        if distributed.decide(bool(owner)):
            raise UserError(
                f"--workdir={workdir} is in use{f' by {owner}' if owner else ''}: wait for that run, end it, or take another "
                "--workdir."
            )
        yield


def _has_locks(workdir: epath.Path) -> bool:
    return not files.is_remote(workdir)


@contextlib.contextmanager
def _made(workdir: epath.Path) -> Iterator[None]:
    """Makes the workdir; if nothing was written to it, as after a mistake in the config, it is gone again."""
    new = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        there = new and not files.is_remote(workdir) and workdir.is_dir()  # nobody has moved it away
        if there and {path.name for path in workdir.iterdir()} <= {NAME}:
            workdir.rmtree()


@contextlib.contextmanager
def _lock(workdir: epath.Path) -> Iterator[str]:
    """Yields who else holds the workdir; "" where nobody does, and then holds it."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield ""
        return
    # Opened for appending, so that it still says who holds it.
    with open(workdir / NAME, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            yield _name_of(file.read()) or "another run"
            return
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s): start no second run in it.", workdir, error.strerror)
            yield ""
            return
        file.truncate(0)
        file.write(_me(secrets.token_hex(8)))
        file.flush()
        yield ""
        file.truncate(0)


@contextlib.contextmanager
def _lease(workdir: epath.Path) -> Iterator[str]:
    """The same in a bucket. Waits for a lease whose owner does not renew it any more."""
    path, token = workdir / NAME, secrets.token_hex(8)
    other = path.read_bytes() if path.exists() else b""
    if other and _age(other) < EXPIRE_SECONDS:
        log.info(
            "%s is held by %s. Waiting for whether that run still renews its lease.",
            workdir,
            _name_of(other) or "another run",
        )
    while other and _age(other) < EXPIRE_SECONDS:
        time.sleep(min(RENEW_SECONDS / 4, max(EXPIRE_SECONDS - _age(other), 0.1)))
        now = path.read_bytes() if path.exists() else b""
        if now and now != other:
            yield _name_of(now) or "another run"
            return
        other = now
    done = threading.Event()

    def renew() -> None:
        while True:
            with contextlib.suppress(Exception):  # the next renewal tries again; a run does not end for it
                files.write_atomically(path, _me(token))
            if done.wait(RENEW_SECONDS):
                return

    files.write_atomically(path, _me(token))
    thread = threading.Thread(target=renew, daemon=True, name="lease of the workdir")
    thread.start()
    try:
        yield ""
    finally:
        done.set()
        thread.join(timeout=RENEW_SECONDS)
        with contextlib.suppress(Exception):
            path.unlink()


def _me(token: str) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "time": now.timestamp(), "token": token}
    return json.dumps(owner).encode()


def _name_of(content: bytes) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _age(content: bytes) -> float:
    """Seconds since a lease was renewed; infinite for what is no lease."""
    try:
        return time.time() - float(json.loads(content)["time"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
