"""Downloads that break, resume and are checked; archives that are unpacked."""

import hashlib
import time

import huggingface_hub
import pytest

from usg_psg.data.sources import files
from usg_psg.data.sources.files import RemoteFile, extract, require_space

from .hosts import serving, zipped

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def host(monkeypatch):
    """A server of /big.zip, read in small pieces and without waiting between attempts."""
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with serving({"/big.zip": CONTENT}) as host:
        yield host


def ask(host, tmp_path, sha256=""):
    return RemoteFile.ask(f"{host.url}/big.zip", tmp_path / "folder" / "big.zip", sha256)


def break_at(host, byte, times):
    left = [times]

    def before_write(path, sent):
        if sent >= byte and left[0]:
            left[0] -= 1
            raise OSError("broken")

    host.before_write = before_write


def test_whole_file(host, tmp_path):
    file = ask(host, tmp_path, hashlib.sha256(CONTENT).hexdigest())
    assert file.missing == file.size == len(CONTENT)
    assert file.fetch().read_bytes() == CONTENT and ask(host, tmp_path).missing == 0
    assert [path.name for path in file.path.parent.iterdir()] == ["big.zip"]
    before = len(host.requests)
    file.fetch()
    assert len(host.requests) == before


def test_broken_connection_is_taken_up_again(host, tmp_path):
    break_at(host, 40_960, times=2)
    assert ask(host, tmp_path).fetch().read_bytes() == CONTENT
    starts = [r.partition("bytes=")[2] for r in host.requests if r.startswith("GET")]
    assert len(starts) == 3 and all(start.endswith("-") and int(start[:-1]) > 0 for start in starts[1:])


def test_next_run_goes_on(host, tmp_path):
    break_at(host, 40_960, times=100)
    file = ask(host, tmp_path)
    with pytest.raises(OSError, match=r"big\.zip"):
        file.fetch()
    here = len(CONTENT) - file.missing
    assert not file.path.exists() and 0 < here < len(CONTENT)
    host.before_write = lambda path, sent: None
    assert ask(host, tmp_path).fetch().read_bytes() == CONTENT
    assert host.requests[-1] == f"GET /big.zip bytes={here}-"


def test_server_that_cannot_resume(host, tmp_path):
    file = ask(host, tmp_path)
    file.part.parent.mkdir()
    file.part.write_bytes(CONTENT[:5000])
    host.ranges = False
    assert file.fetch().read_bytes() == CONTENT


def test_part_of_another_version_is_not_used(host, tmp_path):
    old = ask(host, tmp_path)
    old.part.parent.mkdir()
    old.part.write_bytes(CONTENT[:5000])
    host.files["/big.zip"] = CONTENT[::-1]
    new = ask(host, tmp_path)
    assert new.missing == len(CONTENT) and new.fetch().read_bytes() == CONTENT[::-1] and not old.part.exists()


def test_file_that_moved_to_another_host(host, tmp_path):
    host.moved["/old.zip"] = f"{host.url.replace('127.0.0.1', 'localhost')}/big.zip"
    assert RemoteFile.ask(f"{host.url}/old.zip", tmp_path / "old.zip").fetch().read_bytes() == CONTENT


def test_wrong_checksum(host, tmp_path):
    file = ask(host, tmp_path, "0" * 64)
    with pytest.raises(OSError, match="SHA-256"):
        file.fetch()
    assert list(file.path.parent.iterdir()) == []


def test_what_cannot_be_fetched(host, tmp_path):
    with pytest.raises(OSError, match=r"/absent\.zip: "):
        RemoteFile.ask(f"{host.url}/absent.zip", tmp_path / "absent.zip")
    (tmp_path / "big.zip").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"big\.zip: it has 4 bytes"):
        RemoteFile.ask(f"{host.url}/big.zip", tmp_path / "big.zip")


def test_space(tmp_path):
    require_space(tmp_path / "not" / "there", 10)
    with pytest.raises(ValueError, match=r"there: 1048576\.00 GiB are needed"):
        require_space(tmp_path / "not" / "there", 2**50)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"d/x.png": b"x" * 1000, "d/y.png": b"y" * 1000, "__MACOSX/d/._x.png": b"z"}))
    return path


def unpacked(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_extract(archive, tmp_path):
    extract(archive, tmp_path / "some", ["d/x.png"])
    assert unpacked(tmp_path / "some") == {"d/x.png"}
    (tmp_path / "some" / "d" / "x.png").write_bytes(b"o" * 1000)  # there in its size: stays
    (tmp_path / "some" / "d" / "y.png").write_bytes(b"cut off")
    extract(archive, tmp_path / "some")
    assert unpacked(tmp_path / "some") == {"d/x.png", "d/y.png"}
    assert [(tmp_path / "some" / "d" / name).read_bytes()[:1] for name in ("x.png", "y.png")] == [b"o", b"y"]


def test_extract_refuses(archive, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.zip: it lacks 1 files, such as d/w\.png"):
        extract(archive, tmp_path, ["d/w.png", "d/x.png"])
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="are needed"):
        patch.setattr(files.shutil, "disk_usage", lambda path: files.shutil._ntuple_diskusage(1, 1, 0))
        extract(archive, tmp_path / "full")
    (tmp_path / "out.zip").write_bytes(zipped({"../x.png": b"x"}))
    with pytest.raises(ValueError, match="leads out of the folder"):
        extract(tmp_path / "out.zip", tmp_path / "folder")
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"y" * 1000, b"y" * 999 + b"n"))
    with pytest.raises(ValueError, match=r"a\.zip: it is damaged"):
        extract(archive, tmp_path / "damaged")
    assert unpacked(tmp_path / "damaged") == {"d/x.png"}
    archive.write_bytes(content[:500])
    with pytest.raises(ValueError, match=r"a\.zip: it is damaged"):
        extract(archive, tmp_path / "cut_off")
