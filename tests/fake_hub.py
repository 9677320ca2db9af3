"""A stand-in of the Hugging Face Hub's client: repositories are folders, each commit a copy, and a snapshot is made of links.

It takes the place of `HfApi` and of `ModelCard.validate`, and raises what the real client raises. Calls with arguments that the
real methods do not have fail.
"""

import fnmatch
import inspect
import pathlib
import shutil
from types import SimpleNamespace

import huggingface_hub
from huggingface_hub import errors
import yaml

REAL = huggingface_hub.HfApi
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "other")


def http_error(kind, status, message=""):
    return kind(
        f"{status} Client Error.\n\n{message}", response=SimpleNamespace(status_code=status, headers={}, request=None)
    )


class FakeHub:
    """The state of the Hub, and of the client.

    Attributes:
      user: who is logged in; None: nobody.
      network: whether the Hub can be reached.
      private: of each repository, whether it is.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.user, self.network, self.private = folder, "me", True, {}

    def install(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda **kwargs: self._api(kwargs))
        monkeypatch.setattr(huggingface_hub.ModelCard, "validate", lambda card, repo_type: self.validate(card))

    def _api(self, kwargs):
        inspect.signature(REAL).bind(**kwargs)

        def method(name):
            def call(*args, **kwargs):
                inspect.signature(getattr(REAL, name)).bind(None, *args, **kwargs)
                self._reach()
                return getattr(self, name)(*args, **kwargs)

            return call

        names = ("create_repo", "model_info", "list_repo_files", "upload_folder", "snapshot_download")
        return SimpleNamespace(**{name: method(name) for name in names})

    def _reach(self):
        if not self.network:
            raise errors.LocalEntryNotFoundError("no internet") from ConnectionError("Name or service not known")

    def commits(self, repo_id):
        return sorted((self.folder / repo_id).iterdir(), key=lambda path: int(path.name))

    def _may_write(self, repo_id):
        if self.user is None:
            raise http_error(errors.HfHubHTTPError, 401, "Invalid username or password.")
        if repo_id.split("/")[0] != self.user:
            raise http_error(errors.HfHubHTTPError, 403, "You don't have the rights.")

    def _exists(self, repo_id):
        hidden = self.private.get(repo_id) and repo_id.split("/")[0] != self.user
        if repo_id not in self.private or hidden:
            raise http_error(errors.RepositoryNotFoundError, 401, "Repository Not Found.")

    def validate(self, card):
        self._reach()
        if card.data.license not in (None, *LICENSES):
            raise ValueError('"license" must be one of [' + ", ".join(LICENSES) + "]")

    def create_repo(self, repo_id, *, private, exist_ok):
        self._may_write(repo_id)
        assert exist_ok
        if repo_id not in self.private:
            self.private[repo_id] = bool(private)
            (self.folder / repo_id / "0").mkdir(parents=True)
            (self.folder / repo_id / "0" / ".gitattributes").write_text("")

    def model_info(self, repo_id):
        self._exists(repo_id)
        return SimpleNamespace(private=self.private[repo_id])

    def list_repo_files(self, repo_id):
        self._exists(repo_id)
        newest = self.commits(repo_id)[-1]
        return sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file())

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        self._may_write(repo_id)
        before = self.commits(repo_id)[-1]
        commit = before.with_name(str(int(before.name) + 1))
        for name in self.list_repo_files(repo_id):
            if name == ".gitattributes" or not fnmatch.fnmatch(name, delete_patterns):
                _copy(before / name, commit / name)
        for path in pathlib.Path(folder_path).rglob("*"):
            if path.is_file():  # Git keeps no empty folders
                _copy(path, commit / path.relative_to(folder_path))
        return SimpleNamespace(commit_url=f"https://example.org/{repo_id}/commit/{commit.name}")

    def snapshot_download(self, repo_id, *, revision, allow_patterns):
        self._exists(repo_id)
        commits = {path.name: path for path in self.commits(repo_id)}
        if revision not in (None, "main", *commits):
            raise http_error(errors.RevisionNotFoundError, 404, "Invalid rev id")
        commit = commits.get(revision, self.commits(repo_id)[-1])
        snapshot = self.folder / "cache" / repo_id / f"commit{commit.name}"
        for path in commit.rglob("*"):
            name = path.relative_to(commit)
            if path.is_file() and any(fnmatch.fnmatch(str(name), pattern) for pattern in allow_patterns):
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / name).unlink(missing_ok=True)
                (snapshot / name).symlink_to(path)
        return str(snapshot)


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def front_matter(text):
    """The YAML of a model card."""
    return yaml.safe_load(text.split("---\n")[1])
