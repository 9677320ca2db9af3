"""The Hugging Face Hub: names of repositories, download and upload through `huggingface_hub`, the extra `[hub]`."""

from collections.abc import Iterator
import contextlib
import os
import re
from typing import Any
from typing import NamedTuple

from simclr_jax.errors import UserError
from simclr_jax.runtime import extras

SCHEME = "hf://"
# What a workdir has for `simclr_jax.load` and the commands. An export for other programs is left out.
OF_A_WORKDIR = ("checkpoints/*", "draw_*", "*.json")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class Place(NamedTuple):
    """A repository, and the branch, tag or commit in it; None: the newest."""

    repository: str
    revision: str | None


def check_name(name: str, what: str) -> None:
    """Refuses a name of a repository that the Hub would refuse. `what` begins the message."""
    parts = name.split("/")
    wrong = len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts)
    if wrong or "--" in name or ".." in name or len(name) > 96 or name.endswith(".git"):
        raise UserError(
            f"{what}: a repository is USER/NAME, at most 96 letters, digits, '-', '_' and '.', which begins and ends with a "
            "letter or digit, as in me/photos."
        )


def parse(place: str, what: str) -> Place:
    """The repository of hf://USER/NAME or hf://USER/NAME@REVISION.

    Raises:
      UserError: for another form. `what` begins the message.
    """
    name, at, revision = place.removeprefix(SCHEME).partition("@")
    if at and not re.fullmatch(r"[\w./-]+", revision):
        raise UserError(f"{what}: after the @ there is a branch, tag or commit, as in {SCHEME}me/photos@v1.")
    check_name(name.rstrip("/"), what)
    return Place(name.rstrip("/"), revision or None)


def local(place: str | os.PathLike[str], what: str = "") -> str:
    """The path of a workdir: of hf://USER/NAME its copy in the Hub's cache, downloaded where it is not there; else `place`.

    Args:
      place: a path, perhaps of a bucket, or hf://USER/NAME[@REVISION].
      what: begins error messages. Default: the place.

    Raises:
      UserError: where the repository cannot be read.
    """
    place = os.fspath(place)
    if not place.startswith(SCHEME):
        return place
    what = what or repr(place)
    repository, revision = parse(place, what)
    with _one_line(what, "read"):
        found = _api(what).snapshot_download(repository, revision=revision, allow_patterns=list(OF_A_WORKDIR))
    if not os.path.isdir(found):
        raise UserError(f"{what}: the repository has no run of simclr_jax, such as export --push_to_hub uploads.")
    return str(found)


def prepare(repository: str, *, private: bool, overwrite: bool, card: str) -> None:
    """Makes a repository of a model, if there is none, so that what the Hub refuses is refused before an export's work.

    Args:
      repository: USER/NAME.
      private: whether it has to be one that only its owner sees.
      overwrite: whether files that are there may be replaced.
      card: the text of its README.md, or only the front matter.

    Raises:
      UserError: where the card is not valid, the repository cannot be made, has files, or is public but has to be private.
    """
    what = f"--push_to_hub={repository}"
    hub, api = _import(what), _api(what)
    with _one_line(what, "write"):
        hub.ModelCard(card, ignore_metadata_errors=False).validate(repo_type="model")
        # None: as the account or organisation has it, which is public unless they say otherwise.
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(
                f"{what}: the repository exists and is public. Make it private in its settings on the Hub, or leave out "
                "--private."
            )
        there = [name for name in api.list_repo_files(repository) if name != ".gitattributes"]
    if there and not overwrite:
        raise UserError(
            f"{what}: the repository has {len(there)} files, such as {there[0]}: --overwrite replaces them."
        )


def push(repository: str, folder: str, message: str) -> str:
    """Uploads a folder as one commit; the repository then has just its files. Returns the address.

    Raises:
      UserError: where the Hub refuses it.
    """
    what = f"--push_to_hub={repository}"
    with _one_line(what, "write"):
        # Files of an earlier push would otherwise stay, and a later checkpoint of them would be loaded.
        info = _api(what).upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, delete_patterns="*"
        )
    return str(info.commit_url)


def _package(what: str) -> tuple[str, str, str]:
    return "huggingface_hub", f"{what} needs huggingface_hub, which is not installed", "hub"


def check_installed(what: str) -> None:
    """Refuses what needs the client where it is not installed. `what` begins the message."""
    extras.check(*_package(what))


def _import(what: str) -> Any:
    return extras.load(*_package(what))


def _api(what: str) -> Any:
    return _import(what).HfApi(library_name="simclr_jax")


@contextlib.contextmanager
def _one_line(what: str, action: str) -> Iterator[None]:
    """A line instead of the errors of the Hub's client."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _reason(error, action)
        if reason is None:
            raise
        raise UserError(f"{what}: {reason}") from error


def _reason(error: Exception, action: str) -> str | None:
    """What went wrong; None where it is no error of the client, the Hub or the network."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    log_in = "log in with 'hf auth login', or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return "its owner gives access on request: ask for it on its page, then " + log_in + "."
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such branch, tag or commit."
    if isinstance(error, errors.LocalTokenNotFoundError) or (status == 401 and action == "write"):
        return f"you are not logged in to the Hugging Face Hub: {log_in}, with a token that may write."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository on the Hugging Face Hub, or it is private: then {log_in}."
    if status == 403:
        return (
            f"the Hugging Face Hub does not let your token {action} there: is USER right, and may the token {action}?"
        )
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError) or _of_network(error):
        return f"the Hugging Face Hub cannot be reached, and the files are not in its cache: {_cause(error)}"
    if isinstance(error, errors.HfHubHTTPError | OSError | ValueError):
        return f"the Hugging Face Hub refuses: {_first_line(error)}"
    return None


def _of_network(error: Exception) -> bool:
    """An error of the client for HTTP, which is another package in each version of huggingface_hub."""
    from huggingface_hub import errors

    library = type(error).__module__.partition(".")[0]
    return library in ("httpx", "httpx2", "requests") and not isinstance(error, errors.HfHubHTTPError)


def _cause(error: BaseException) -> str:
    """The first line of the error that the others came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = getattr(error, "server_message", None) or (" ".join(lines[:3]) if lines else "")
    return message[:300] or type(error).__name__
