"""Models from the hub: chosen, downloaded with resumption, verified, and visible only then.

The protocol and its client are huggingface_hub's; the server is that of its `HF_ENDPOINT`.
"""

import contextlib
import difflib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not re-exported
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from sfumato.errors import DownloadError, SfumatoError, WeightsError
from sfumato.weights.atomic import sync_folder, write_error
from sfumato.weights.files import file_sha256
from sfumato.weights.info import describe
from sfumato.weights.trees import ENDINGS

PARTS = ".pulling"  # subfolder of the models folder for what is not complete
_STEP = 2**20  # bytes between two reports
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)  # seconds before going on after a cut, by tries in a row without a byte
TRIES = len(WAITS)
_TIMEOUT = 30.0  # seconds without a sign of life

_PREFERRED = tuple(  # single files that a repository offers, best first
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"(?<!non)ema[-_.]?(only|pruned)", r"^(?!.*nonema).*pruned", r"^(?!.*nonema)", r"")
)
_NOT_CHECKPOINTS = re.compile(r"lora|lycoris|vae|controlnet|control_|embedding|adapter|upscal", re.IGNORECASE)
_FOLDER_FILES = re.compile(
    r"model_index\.json|(unet|vae|text_encoder|scheduler|tokenizer)/[^/]+\.(json|txt)"
    r"|(unet|vae)/diffusion_pytorch_model\.safetensors|text_encoder/model\.safetensors"
)
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class PullStep:
    """How far a download is. `path` is set in the last step: the model, complete and verified."""

    file: str
    done: int  # bytes of everything that is to come
    total: int
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Remote:
    """One file on the server."""

    file: str
    url: str
    size: int
    etag: str  # SHA-256 of a large file, git's hash of a small one


def pull(
    repo: str,
    file: str | None = None,
    *,
    folder: Path,
    revision: str = "main",
    token: str | None = None,
    endpoint: str | None = None,
) -> Iterator[PullStep]:
    """Download a model into the models folder.

    What is cut off is kept aside and goes on at the next pull of the same file. Stop iterating to stop.

    Args:
        repo: owner/name.
        file: one file of it; None chooses: the single-file checkpoint that is best for making pictures, or
            else the whole folder in diffusers' layout.
        folder: the models folder; it is made if need be.
        revision: branch, tag or commit.
        token: the user's; None takes what `HF_TOKEN` or a login on this machine gives.
        endpoint: the server; None takes `HF_ENDPOINT`, or the public one.

    Yields:
        How far it is, about once a megabyte; the last step has the path.

    Raises:
        DownloadError: at the step where it comes up: no such repository or file, no access, a broken
            connection, a wrong hash, a full disk; says what to do.
        WeightsError: what came is not a usable weights file; nothing has become visible.
    """
    api = HfApi(endpoint=endpoint, token=token)
    with _explained(repo, api.endpoint):
        names = _chosen(api, repo, file, revision)
        remotes = [_remote(api, repo, name, revision) for name in names]
        whole = len(remotes) > 1
        target = folder / (repo.rpartition("/")[2] if whole else Path(names[0]).name)
        total = sum(remote.size for remote in remotes)
        if target.exists():
            raise DownloadError(f"{target} exists already; remove it or choose another models folder")
        aside = folder / PARTS
        _make_room(aside, total)
        before = 0
        parts = []
        for remote in remotes:
            part = aside / remote.etag
            for done in _fetch(remote, part, api):
                yield PullStep(file=remote.file, done=before + done, total=total)
            _verify(remote, part)
            before += remote.size
            parts.append(part)
        _publish(parts, names, target, whole)
        yield PullStep(file=names[-1], done=total, total=total, path=target)


def cached_files(
    repo: str, names: tuple[str, ...], *, endpoint: str | None = None
) -> tuple[Path, ...] | None:
    """Give files of a repository from the hub's cache on this machine, downloaded if they are not there.

    Args:
        repo: owner/name.
        names: of the files.
        endpoint: the server; None takes `HF_ENDPOINT`, or the public one.

    Returns:
        Their paths; None = the repository lacks one of them.

    Raises:
        DownloadError: no such repository, no access, a broken connection.
    """
    api = HfApi(endpoint=endpoint)
    paths = []
    with _explained(repo, api.endpoint):
        for name in names:
            try:
                paths.append(Path(api.hf_hub_download(repo, name)))
            except RemoteEntryNotFoundError:
                return None
            except LocalEntryNotFoundError as error:
                raise DownloadError(
                    f"{repo} is not on this machine, and {api.endpoint} cannot be reached; check the network"
                ) from error
    return tuple(paths)


def _chosen(api: HfApi, repo: str, file: str | None, revision: str) -> list[str]:
    if file is not None:
        if ".." in Path(file).parts or Path(file).is_absolute():
            raise DownloadError(f"file={file!r} is not a path within a repository")
        return [file]
    sizes = {
        sibling.rfilename: sibling.size or 0
        for sibling in api.model_info(repo, revision=revision, files_metadata=True).siblings or ()
    }
    singles = [
        name
        for name in sizes
        if name.endswith(".safetensors") and "/" not in name and not _NOT_CHECKPOINTS.search(name)
    ]
    if singles:
        return [min(singles, key=lambda name: (_rank(name), sizes[name], name))]
    if "model_index.json" in sizes:
        names = sorted(name for name in sizes if _FOLDER_FILES.fullmatch(name))
        if sum(name.endswith(".safetensors") for name in names) == 3:  # one of each network
            return names
    listed = ", ".join(
        name for name in sorted(sizes) if name.endswith((".safetensors", ".ckpt", ".pt", ".bin"))
    )
    raise DownloadError(
        f"{repo} has no checkpoint in safetensors that could be chosen; "
        f"name one file of it: {listed[:400] or 'it has no weights at all'}"
    )


def _rank(name: str) -> int:
    return next(rank for rank, pattern in enumerate(_PREFERRED) if pattern.search(name))


def _remote(api: HfApi, repo: str, file: str, revision: str) -> _Remote:
    try:
        url = hf_hub_url(repo, file, revision=revision, endpoint=api.endpoint)
        found = get_hf_file_metadata(url, token=api.token, endpoint=api.endpoint)
    except EntryNotFoundError as error:
        near = difflib.get_close_matches(file, api.list_repo_files(repo, revision=revision), n=5, cutoff=0.3)
        hint = f"the nearest are {', '.join(near)}" if near else "leave the file out, and the best is chosen"
        raise DownloadError(f"{repo} has no file {file!r}; {hint}") from error
    etag = found.etag or ""
    if found.size is None or not (_SHA256.fullmatch(etag) or _SHA1.fullmatch(etag)):
        raise DownloadError(
            f"{urlsplit(url).netloc} gives no size or hash for {repo}/{file}, so that it could not be "
            "verified; check HF_ENDPOINT"
        )
    fixed = hf_hub_url(repo, file, revision=found.commit_hash or revision, endpoint=api.endpoint)
    return _Remote(file=file, url=fixed, size=found.size, etag=etag)


def _make_room(aside: Path, total: int) -> None:
    try:
        aside.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in aside.iterdir() if path.is_file())
        free = _free_bytes(aside)
    except OSError as error:
        raise write_error(aside, error) from error
    if free + there < total:
        raise DownloadError(
            f"{aside.parent} has {free / 1e9:.1f} GB free, {total / 1e9:.1f} GB are needed; make room "
            "or choose another models folder"
        )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _fetch(remote: _Remote, part: Path, api: HfApi) -> Iterator[int]:
    """Append to `part` what is missing of a file; yields the bytes that are there. Goes on after a cut."""
    tries = 0
    done = part.stat().st_size if part.exists() else 0
    yield min(done, remote.size)
    while done < remote.size:
        before, cut = done, None
        try:
            for done in _stream(remote, part, before, api):
                yield min(done, remote.size)
        except httpx2.TransportError as error:
            done, cut = part.stat().st_size if part.exists() else 0, error
        if done >= remote.size:
            break
        tries = 0 if done > before else tries + 1
        if tries >= TRIES:
            raise DownloadError(
                f"{remote.file} was cut off at {done} of {remote.size} bytes "
                f"({cut or 'the server ended it'}); pull again when the connection is better, "
                "it goes on from there"
            ) from cut
        time.sleep(WAITS[tries])


def _stream(remote: _Remote, part: Path, done: int, api: HfApi) -> Iterator[int]:
    headers = build_hf_headers(token=api.token)
    headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with get_session().stream(  # it follows redirects, and keeps the token from other hosts
        "GET", remote.url, headers=headers, timeout=_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        resumed = done > 0 and response.status_code == HTTPStatus.PARTIAL_CONTENT
        done = done if resumed else 0
        try:
            with part.open("ab" if resumed else "wb") as file:
                said = done
                for chunk in response.iter_raw():  # as it comes, so that a cut loses nothing
                    done += file.write(chunk)
                    if done - said >= _STEP:
                        said = done
                        yield done
                    if done > remote.size:  # an endless body; its hash will not fit
                        break
            yield done
        except OSError as error:
            raise write_error(part, error) from error


def _verify(remote: _Remote, part: Path) -> None:
    if _SHA256.fullmatch(remote.etag):
        found = file_sha256(part)
    else:  # git's name of a small file's contents
        data = part.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if found != remote.etag:
        part.unlink()
        raise DownloadError(
            f"{remote.file} arrived with the hash {found[:12]}…, expected {remote.etag[:12]}…; "
            "it was thrown away: pull again, and if it happens again, do not trust this server"
        )


def _publish(parts: list[Path], names: list[str], target: Path, whole: bool) -> None:
    """Check what came and give it its name: until then nothing of it is in the models folder's view."""
    staged = parts[0].parent / target.name
    try:
        for part, name in zip(parts, names, strict=True):
            place = staged / name if whole else staged
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, place)
        if whole or target.suffix.lower() in ENDINGS:
            info = describe(staged)
            if info.fault:
                raise WeightsError(info.fault.replace(str(staged), target.name))
        os.replace(staged, target)
        sync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        _remove(staged)
        with contextlib.suppress(OSError):  # another pull may have its parts there
            staged.parent.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(repo: str, endpoint: str) -> Iterator[None]:
    """Turn what the hub's client raises into errors that say what to do."""
    try:
        yield
    except SfumatoError:
        raise
    except HFValidationError as error:
        raise DownloadError(
            f"repo={repo[:100]!r} is not of the form owner/name; check the spelling"
        ) from error
    except GatedRepoError as error:
        raise DownloadError(
            f"{repo} is gated: accept its conditions at {endpoint}/{repo}, then set HF_TOKEN to your token"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{endpoint} has no repository {repo}, or it is private; "
            "check the spelling, or set HF_TOKEN to a token that may read it"
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(
            f"{repo} has no such revision; leave it out, or check the branch or tag"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise DownloadError(
            f"{endpoint} answered {status} for {repo}; {_ADVICE.get(status, _LATER)}"
        ) from error
    except FileMetadataError as error:
        raise DownloadError(f"{endpoint} does not speak the hub's protocol; check HF_ENDPOINT") from error
    except OfflineModeIsEnabled as error:
        raise DownloadError("HF_HUB_OFFLINE is set; unset it to download") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DownloadError(
            f"{endpoint} cannot be reached ({reason}); check the network, the proxy and HF_ENDPOINT"
        ) from error


_LATER = "try again later"
_ADVICE: Mapping[int, str] = {
    401: "it is private or not there, or the token is not accepted: check the name and HF_TOKEN",
    403: "the token may not read it: give it the permission, or accept the model's conditions",
    404: "check the names of repository and file",
    429: "too many requests: wait a while, or set HF_TOKEN",
}
