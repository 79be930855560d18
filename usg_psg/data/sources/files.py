"""Large files from web servers: resumed where they stopped, checked, whole or not there; and what is packed in them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub.file_download import get_hf_file_metadata, http_get
from tqdm import tqdm

GIB = 2**30
_AS_IT_IS = {"Accept-Encoding": "identity"}  # compressed on the way, a file could not be resumed


@dataclass(frozen=True)
class RemoteFile:
    """A file of a web server, and where it belongs.

    Attributes:
        url, path: from there to here.
        size: bytes, as the server says.
        etag: the server's name of this version of the file.
        sha256: what the file must have; "" if that is not known.
    """

    url: str
    path: Path
    size: int
    etag: str
    sha256: str = ""

    @classmethod
    def ask(cls, url: str, path: Path, sha256: str = "") -> RemoteFile:
        """Ask the server.

        Raises:
            OSError: if it cannot be reached, does not have the file or does not say its size.
            ValueError: if another file is at path.
        """
        with network_errors(url):
            answer = get_hf_file_metadata(url, token=False, headers=_AS_IT_IS)
            if answer.size is None and answer.location != url:  # sent to another host, which knows
                answer = get_hf_file_metadata(answer.location, token=False, headers=_AS_IT_IS)
        if answer.size is None:
            raise OSError(f"{url}: the server does not say its size")
        if path.exists() and path.stat().st_size != answer.size:
            raise ValueError(f"{path}: it has {path.stat().st_size:,} bytes, {url} has {answer.size:,}; remove it")
        return cls(url, path, answer.size, answer.etag or "", sha256)

    @property
    def part(self) -> Path:
        """What has come so far of this version of the file."""
        return self.path.with_name(f"{self.path.name}.{re.sub('[^0-9A-Za-z]', '', self.etag)}.part")

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        if self.path.exists():
            return 0
        return self.size - (self.part.stat().st_size if self.part.exists() else 0)

    def fetch(self) -> Path:
        """Download what is missing; interrupted at any time, it goes on from there.

        Raises:
            OSError: if the connection fails for long, the disk is full, or size or checksum are wrong.
        """
        if self.path.exists():
            return self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for other in self.path.parent.glob(f"{self.path.name}.*.part"):
            if other != self.part:  # of a version that the server no longer has
                other.unlink()
        with open(self.part, "ab") as file:
            if file.tell() > self.size:
                file.truncate(0)
            if (done := file.tell()) < self.size:
                with network_errors(self.url):
                    # Of the libraries at hand the one that resumes; it also retries when a connection breaks.
                    http_get(
                        self.url,
                        file,
                        resume_size=done,
                        headers=dict(_AS_IT_IS),
                        expected_size=self.size,
                        displayed_filename=self.path.name,
                    )
            file.flush()
            os.fsync(file.fileno())
        if self.sha256 and (found := _sha256(self.part)) != self.sha256:
            self.part.unlink()
            raise OSError(f"{self.url}: SHA-256 {found} came, expected {self.sha256}; the file is removed, try again")
        os.replace(self.part, self.path)
        return self.path


@contextmanager
def network_errors(where: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub's HTTP library, which differ between its versions, into an OSError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # of the disk
            raise
        raise OSError(f"{where}: {str(error).strip() or type(error).__name__}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def require_space(folder: Path, num_bytes: float) -> None:
    """Raise ValueError if the disk of a folder, which need not be there yet, has less room than this."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise ValueError(f"{folder}: {num_bytes / GIB:.2f} GiB are needed, {free / GIB:.2f} GiB are free")


def extract(archive: Path, folder: Path, names: Collection[str] | None = None) -> None:
    """Unpack files of a zip archive, each whole or not there; those that are there in their size stay.

    Args:
        archive: the zip file.
        folder: where the archive's paths begin.
        names: members to unpack; None for all.

    Raises:
        ValueError: if the archive is damaged, lacks a name, or has a path that leads out of the folder; if the disk has
            too little room.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {m.filename: m for m in opened.infolist() if not m.is_dir() and _is_content(m.filename)}
            if absent := sorted(set(names or ()).difference(members)):
                raise ValueError(f"{archive}: it lacks {len(absent)} files, such as {absent[0]}")
            wanted = [members[name] for name in (members if names is None else sorted(names))]
            wanted = [m for m in wanted if not _is_there(folder / m.filename, m.file_size)]
            require_space(folder, sum(m.file_size for m in wanted))
            for member in tqdm(wanted, desc=archive.name, unit="file", disable=not wanted):
                _unpack(opened, member, folder / member.filename)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: it is damaged ({error}); remove it and try again") from error


def _is_content(name: str) -> bool:
    """False for what macOS adds; ValueError for a path out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the archive has a file that leads out of the folder: {name!r}")
    return path.parts[0] != "__MACOSX"


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with archive.open(member) as source, open(part, "wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
