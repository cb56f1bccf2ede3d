"""Downloads and archives under every fault: a server that breaks off, lies or refuses; hostile files."""

import hashlib
import http.server
import io
import resource
import shutil
import tarfile
import threading
import zipfile

import pytest

from tlg_lib.errors import TLGError
from tlg_lib.machine import archives, downloads
from tlg_lib.machine.archives import unpacked
from tlg_lib.machine.downloads import download

BODY = bytes(range(256)) * 12_000  # 3 MB
SHA = hashlib.sha256(BODY).hexdigest()
FAST = dict(progress=False, pause=0.01, timeout=5)


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY; ``faults`` says how. Requests are kept in ``seen`` as (path, Range header)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.seen, self.body, self.etag = {}, [], BODY, '"one"'
        self.conditions = []  # If-Range headers

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, faults = self.server, self.server.faults
        server.seen.append((self.path, self.headers.get("Range")))
        if "status" in faults:
            return self.send_error(faults["status"])
        if self.path == "/file.bin" and faults.get("redirect"):
            self.send_response(302)
            self.send_header("Location", "/other.bin")
            return self.end_headers()
        start, body = 0, server.body
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.conditions.append(condition)
        if wanted and faults.get("ranges", True) and (condition == server.etag or faults.get("careless")):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", server.etag)
        if "encoding" in faults:
            self.send_header("Content-Encoding", faults["encoding"])
        if faults.get("length", True):
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cuts = faults.get("cuts")
        end = len(body)
        if cuts:
            end = min(end, cuts.pop(0))
        self.wfile.write(body[start:end])
        self.wfile.flush()
        self.close_connection = True


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if ".part" in p.name)


def test_whole_file_and_no_second_request(server, tmp_path):
    path = download(server.url, tmp_path / "sub" / "f.bin", sha256=SHA, **FAST)
    assert path.read_bytes() == BODY and leftovers(path.parent) == []
    download(server.url, path, sha256=SHA, **FAST)
    download(server.url, path, md5=hashlib.md5(BODY).hexdigest(), **FAST)
    download(server.url, path, **FAST)  # by the recorded checksum
    assert len(server.seen) == 1


def test_damaged_file_is_fetched_again_by_the_recorded_checksum(server, tmp_path):
    path = download(server.url, tmp_path / "f.bin", **FAST)
    path.write_bytes(BODY[:-1] + b"x")
    download(server.url, path, **FAST)
    assert path.read_bytes() == BODY and len(server.seen) == 2


def test_cut_connections_are_resumed_by_range(server, tmp_path):
    server.faults["cuts"] = [1_000_000, 2_000_000]
    path = download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST)
    assert path.read_bytes() == BODY
    assert [r for _, r in server.seen] == [None, "bytes=1000000-", "bytes=2000000-"]
    assert server.conditions == [None, '"one"', '"one"']  # asks for a part of the same file only


def test_server_without_range_starts_over(server, tmp_path):
    server.faults.update(cuts=[1_000_000], ranges=False)
    path = download(server.url, tmp_path / "f.bin", **FAST)
    assert path.read_bytes() == BODY and len(server.seen) == 2


def test_endless_cutting_gives_up_and_keeps_the_part(server, tmp_path):
    server.faults["cuts"] = [1_000_000] * 20
    with pytest.raises(TLGError, match="broke off.*1.0 MB are kept") as caught:
        download(server.url, tmp_path / "f.bin", sha256=SHA, attempts=2, **FAST)
    assert caught.value.code == 7 and not (tmp_path / "f.bin").exists()
    server.faults.clear()
    server.seen.clear()
    assert download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST).read_bytes() == BODY
    assert server.seen == [("/file.bin", "bytes=1000000-")]


@pytest.mark.parametrize("careless", [False, True])
def test_file_that_changed_on_the_server_is_not_mixed(server, tmp_path, careless):
    """Also when the server sends a part of the new file although the condition names the old one."""
    server.faults["cuts"] = [1_000_000] * 5
    with pytest.raises(TLGError):
        download(server.url, tmp_path / "f.bin", attempts=1, **FAST)
    server.faults.clear()
    server.faults["careless"] = careless
    server.body, server.etag = BODY[:0:-1], '"two"'
    assert download(server.url, tmp_path / "f.bin", **FAST).read_bytes() == BODY[:0:-1]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_packed_answer_is_refused_and_never_appended(server, tmp_path, at_once):
    """Nobody asked for gzip: its length and ranges are not the file's. What came before stays as it was."""
    if not at_once:
        server.faults["cuts"] = [1_000_000] * 5
        with pytest.raises(TLGError, match="broke off"):
            download(server.url, tmp_path / "f.bin", attempts=1, **FAST)
        server.faults.clear()
    server.faults["encoding"] = "gzip"
    with pytest.raises(TLGError, match="packs the file .'gzip'.*--from") as caught:
        download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST)
    assert caught.value.code == 3 and not (tmp_path / "f.bin").exists()
    server.faults.pop("encoding")
    assert download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST).read_bytes() == BODY


def test_a_weak_etag_is_no_proof_and_the_whole_file_comes_again(server, tmp_path):
    server.etag, server.faults["cuts"] = 'W/"one"', [1_000_000]
    assert download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST).read_bytes() == BODY
    assert [r for _, r in server.seen] == [None, None]


def test_wrong_checksum_leaves_nothing(server, tmp_path):
    for wrong in (dict(sha256="0" * 64), dict(md5="0" * 32)):
        with pytest.raises(TLGError, match="expected 0000.*not the expected") as caught:
            download(server.url, tmp_path / "f.bin", **wrong, **FAST)
        assert caught.value.code == 3
        assert not (tmp_path / "f.bin").exists() and leftovers(tmp_path) == []


def test_redirect_is_followed_and_resumed(server, tmp_path):
    server.faults.update(redirect=True, cuts=[1_500_000])
    path = download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST)
    assert path.read_bytes() == BODY and server.seen[-1] == ("/other.bin", "bytes=1500000-")


def test_missing_page_is_told_at_once(server, tmp_path):
    server.faults["status"] = 404
    with pytest.raises(TLGError, match="file.bin: the server answers 404.*--from") as caught:
        download(server.url, tmp_path / "f.bin", **FAST)
    assert caught.value.code == 3 and len(server.seen) == 1


def test_busy_server_is_asked_again(server, tmp_path):
    server.faults["status"] = 503
    with pytest.raises(TLGError, match="answers 503") as caught:
        download(server.url, tmp_path / "f.bin", attempts=3, **FAST)
    assert caught.value.code == 7 and len(server.seen) == 3


def test_no_length_needs_a_checksum(server, tmp_path):
    server.faults["length"] = False
    with pytest.raises(TLGError, match="no length and no checksum"):
        download(server.url, tmp_path / "f.bin", **FAST)
    assert download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST).read_bytes() == BODY


def test_offline_is_one_line_with_code_7(tmp_path):
    probe = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    port = probe.server_port
    probe.server_close()  # nobody listens there now
    with pytest.raises(TLGError, match="refused.*--from") as caught:
        download(f"http://127.0.0.1:{port}/x.tar", tmp_path / "x.tar", attempts=1, **FAST)
    assert caught.value.code == 7
    with pytest.raises(TLGError, match="not an address"):
        download("no address", tmp_path / "x.tar", **FAST)


def test_too_little_space_is_told_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=len(BODY)))
    with pytest.raises(TLGError, match="needs 3 MB") as caught:
        download(server.url, tmp_path / "f.bin", **FAST)
    assert caught.value.code == 5 and not (tmp_path / "f.bin").exists()


@pytest.fixture
def small_files():
    """No file of this process can grow beyond 1 MB: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_full_disk_while_downloading(server, tmp_path, small_files):
    with pytest.raises(TLGError, match="no space left") as caught:
        download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST)
    assert caught.value.code == 5 and not (tmp_path / "f.bin").exists()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert download(server.url, tmp_path / "f.bin", sha256=SHA, **FAST).read_bytes() == BODY


# --- archives
def tar_with(path, *members, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            file.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return path


GOOD = ("voc/a.txt", b"hello", tarfile.REGTYPE)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_good_tar(tmp_path, mode):
    archive = tar_with(
        tmp_path / "a.tar", ("voc", b"", tarfile.DIRTYPE), GOOD, ("./voc/b", b"", tarfile.REGTYPE), mode=mode
    )
    assert archives.is_archive(archive)
    with unpacked(archive, tmp_path / "out", progress=False) as folder:
        assert (folder / "voc/a.txt").read_bytes() == b"hello" and (folder / "voc/b").read_bytes() == b""
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "member, word",
    [
        (("../evil", b"x", tarfile.REGTYPE), "out of the folder"),
        (("voc/../../evil", b"x", tarfile.REGTYPE), "out of the folder"),
        (("..\\evil", b"x", tarfile.REGTYPE), "out of the folder"),
        (("/tmp/evil-absolute", b"x", tarfile.REGTYPE), "out of the folder"),
        (("C:evil", b"x", tarfile.REGTYPE), "out of the folder"),
        (("voc/link", b"/etc/passwd", tarfile.SYMTYPE), "link or a device"),
        (("voc/link", b"../../evil", tarfile.LNKTYPE), "link or a device"),
        (("voc/dev", b"", tarfile.CHRTYPE), "link or a device"),
        (("voc/pipe", b"", tarfile.FIFOTYPE), "link or a device"),
    ],
)
def test_hostile_tar_is_refused_and_leaves_nothing(tmp_path, member, word):
    archive = tar_with(tmp_path / "a.tar", GOOD, member)
    with pytest.raises(TLGError, match=word) as caught:
        with unpacked(archive, tmp_path / "deep" / "out", progress=False):
            pytest.fail("entered")
    assert caught.value.code == 3 and "a.tar" in str(caught.value)
    assert list((tmp_path / "deep" / "out").iterdir()) == [] and not list(tmp_path.rglob("*evil*"))


def test_symlink_then_file_through_it(tmp_path):
    """The classic two-step: a link to another folder, then a file "inside" it."""
    (tmp_path / "victim").mkdir()
    archive = tar_with(
        tmp_path / "a.tar", ("d", str(tmp_path / "victim").encode(), tarfile.SYMTYPE), ("d/evil", b"x", tarfile.REGTYPE)
    )
    with pytest.raises(TLGError, match="link"):
        with unpacked(archive, tmp_path / "out", progress=False):
            pass
    assert list((tmp_path / "victim").iterdir()) == []


def test_hostile_zip(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for entry, word in ((zipfile.ZipInfo("../evil"), "out of the folder"), (link, "link or a device")):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr("good.txt", "x")
            file.writestr(entry, "/etc/passwd")
        with pytest.raises(TLGError, match=word):
            with unpacked(tmp_path / "a.zip", tmp_path / "out", progress=False):
                pass
    assert not (tmp_path / "evil").exists()


def test_zip_members_are_checked_by_crc(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.jpg", b"A" * 1000)
    with unpacked(tmp_path / "a.zip", tmp_path / "out", progress=False) as folder:
        assert (folder / "x.jpg").read_bytes() == b"A" * 1000
    data = (tmp_path / "a.zip").read_bytes().replace(b"AAAA", b"AABA", 1)
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(TLGError, match="b.zip: broken or incomplete"):
        with unpacked(tmp_path / "b.zip", tmp_path / "out", progress=False):
            pass


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip", "at-a-member.tar"])
def test_cut_archives(tmp_path, name):
    whole = tmp_path / "whole"
    members = [(f"f{i}", hashlib.sha256(bytes([i])).digest() * 50, tarfile.REGTYPE) for i in range(20)]
    if name.endswith("zip"):
        with zipfile.ZipFile(whole, "w") as file:
            for member, content, _ in members:
                file.writestr(member, content)
    else:
        tar_with(whole, *members, mode="w:gz" if name.endswith("tgz") else "w")
    data = whole.read_bytes()
    # 2,560 bytes a member: the last case ends exactly between two members.
    (tmp_path / name).write_bytes(data[: 2560 * 10 if name.startswith("at") else len(data) * 2 // 3])
    with pytest.raises(TLGError, match="broken or incomplete") as caught:
        with unpacked(tmp_path / name, tmp_path / "out", progress=False):
            pytest.fail("a cut archive was taken for whole")
    assert caught.value.code == 3 and list((tmp_path / "out").iterdir()) == []


def test_full_disk_while_unpacking(tmp_path, small_files):
    archive = tar_with(tmp_path / "a.tgz", ("zeros", bytes(2_000_000), tarfile.REGTYPE), mode="w:gz")
    with pytest.raises(TLGError, match="no space left to unpack a.tgz") as caught:
        with unpacked(archive, tmp_path / "out", progress=False):
            pass
    assert caught.value.code == 5 and list((tmp_path / "out").iterdir()) == []


def test_space_for_unpacking_is_checked(tmp_path, monkeypatch):
    archive = tar_with(tmp_path / "a.tar", GOOD)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(TLGError, match="unpacking a.tar needs"):
        with unpacked(archive, tmp_path / "out", progress=False):
            pass


def test_text_file_is_no_archive(tmp_path):
    (tmp_path / "a.tar").write_text("no archive")
    assert not archives.is_archive(tmp_path / "a.tar")
    for name in ("a.tar", "absent.tar"):
        with pytest.raises(TLGError, match=name):
            with unpacked(tmp_path / name, tmp_path / "out", progress=False):
                pass


def pax_bomb(path, size, claimed=None):
    """A tar whose first header extension is ``size`` bytes long (or claims to be)."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, claimed or size
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + b"1" * size + bytes(-size % 512) + bytes(1024))
    return path


def sparse(path, size):
    """A GNU sparse member: some bytes in the archive, ``size`` bytes on the disk."""
    member = tarfile.TarInfo("voc/a.txt")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410] = b"00000000000\0", b"00000001000\0"  # one piece: 512 bytes at 0
    block[483:495] = b"%011o\0" % size
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(bytes(block) + b"x" * 512 + bytes(1024))
    return path


def test_bombs_are_refused_before_they_go_off(tmp_path):
    with zipfile.ZipFile(tmp_path / "zeros.zip", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("voc/zeros", "w", force_zip64=True) as member:
            for _ in range(1200):
                member.write(bytes(1 << 20))
    bombs = {
        pax_bomb(tmp_path / "pax.tar", 2 << 20): "a header of 2,097,152 bytes",
        pax_bomb(tmp_path / "claim.tar", 512, 1 << 33): "a header of 8,589,934,592 bytes",
        sparse(tmp_path / "sparse.tar", 1 << 30): "is a file with holes",
        tmp_path / "zeros.zip": "would unpack to",
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path, word in bombs.items():
        with pytest.raises(TLGError, match=word) as caught:
            assert archives.is_archive(path)
            with unpacked(path, tmp_path / "out", progress=False):
                pass
        assert caught.value.code == 3 and not list((tmp_path / "out").glob("*"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, "kB: memory was filled"
