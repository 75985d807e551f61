"""Round trips of WebHDFS clients that people use, unchanged, against a running cluster: HdfsCLI, fsspec, PyHDFS.

Usage: clients.py http://HOST:PORT USER [hdfscli|fsspec|pyhdfs ...]. Each begins with an empty directory of its own.
"""

import hashlib
import io
import os
import posixpath
import sys
import tempfile

NAMES = ["plain", "with space", "per%cent", "e=q&u?a#l", "plus+plus", "ümläut", "100%25", "semi;colon", "'quote'"]


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def raises(kind, call, text=""):
    try:
        call()
    except kind as error:
        check(text in str(error), f"`{text}` is not in: {error}")
        return error
    raise AssertionError(f"no {kind.__name__}")


def hdfscli(url, user):
    from hdfs import InsecureClient
    from hdfs.util import HdfsError

    client = InsecureClient(url, user=user)
    check(client.resolve("x") == f"/user/{user}/x", client.resolve("x"))
    top = "/clients/hdfscli"
    client.makedirs(top, permission=755)
    check(client.status(top)["type"] == "DIRECTORY", "a directory")
    check(client.status(top + "/none", strict=False) is None, "absent")
    raises(HdfsError, lambda: client.status(top + "/none"), "does not exist")
    raises(HdfsError, lambda: client.list(top + "/none"), "does not exist")

    for name in NAMES:
        path = posixpath.join(top, name)
        client.write(path, data=name.encode())
        with client.read(path) as reader:
            check(reader.read() == name.encode(), name)
    check(sorted(client.list(top)) == sorted(NAMES), client.list(top))
    raises(HdfsError, lambda: client.list(posixpath.join(top, "plain")), "not a directory")

    path = top + "/file"
    with client.write(path, encoding="utf-8", replication=1, permission=600) as writer:
        for number in range(10000):
            writer.write(f"line {number}\n")
    raises(HdfsError, lambda: client.write(path, data="x"), "already exists")
    client.write(path, data="one\n", overwrite=True, encoding="utf-8")
    client.write(path, data="two\n", append=True, encoding="utf-8")
    with client.read(path, encoding="utf-8", delimiter="\n") as lines:
        check(list(lines)[:2] == ["one", "two"], "lines")
    with client.read(path, offset=4, length=3) as reader:
        check(reader.read() == b"two", "a range")
    raises(HdfsError, lambda: client.write(top, data="x", overwrite=True), "directory")

    client.rename(path, top + "/renamed")
    raises(HdfsError, lambda: client.rename(path, top + "/x"))
    client.set_permission(top + "/renamed", 640)
    client.set_times(top + "/renamed", access_time=1000, modification_time=2000)
    client.set_owner(top + "/renamed", owner=user)
    client.set_replication(top + "/renamed", 2)
    status = client.status(top + "/renamed")
    check(status["permission"] == "640" and status["modificationTime"] == 2000, status)
    check(status["replication"] == 2 and status["length"] == 8, status)
    check(client.content(top)["fileCount"] == len(NAMES) + 1, client.content(top))
    check(client.checksum(top + "/renamed")["algorithm"].endswith("CRC32C"), "a checksum")
    check(client.acl_status(top)["entries"] == [], "no ACL")
    raises(HdfsError, lambda: client.set_acl(top, "user::rwx"), "ACL")
    raises(HdfsError, lambda: client.create_snapshot(top, "s"), "snapshot")

    with tempfile.TemporaryDirectory() as local:
        tree = os.path.join(local, "tree")
        os.makedirs(os.path.join(tree, "sub"))
        for name, size in [("a", 0), ("b", 3_000_000), ("sub/c", 17)]:
            with open(os.path.join(tree, name), "wb") as file:
                file.write(os.urandom(size))
        client.upload(top + "/tree", tree, n_threads=2)
        client.download(top + "/tree", os.path.join(local, "back"), n_threads=2)
        for name in ["a", "b", "sub/c"]:
            with open(os.path.join(tree, name), "rb") as one, open(os.path.join(local, "back", name), "rb") as two:
                check(one.read() == two.read(), name)
    check([len(found[2]) for found in client.walk(top + "/tree")] == [2, 1], "a walk")
    raises(HdfsError, lambda: client.delete(top), "non empty")
    check(client.delete(top, recursive=True), "deleted")
    check(client.delete(top) is False, "nothing to delete")


def fsspec_client(url, user):
    import fsspec

    host, port = url.removeprefix("http://").split(":")
    fs = fsspec.filesystem("webhdfs", host=host, port=int(port), user=user, use_listings_cache=False)
    top = "/clients/fsspec"
    fs.makedirs(top, exist_ok=True)
    for name in NAMES:
        path = posixpath.join(top, name)
        fs.pipe_file(path, name.encode() * 2)
        check(fs.cat_file(path) == name.encode() * 2, name)
    check(sorted(posixpath.basename(path) for path in fs.ls(top, detail=False)) == sorted(NAMES), fs.ls(top, detail=False))
    large = os.urandom(12 << 20)
    with fs.open(top + "/large", "wb", block_size=5 << 20) as file:
        file.write(large)
    check(fs.size(top + "/large") == len(large), "size")
    with fs.open(top + "/large", "rb") as file:
        file.seek(5_000_000)
        check(file.read(1000) == large[5_000_000:5_001_000], "a range")
    check(hashlib.sha256(fs.cat_file(top + "/large")).digest() == hashlib.sha256(large).digest(), "all bytes")
    check(fs.isdir(top) and fs.isfile(top + "/large") and not fs.exists(top + "/none"), "kinds")
    check(fs.content_summary(top)["fileCount"] == len(NAMES) + 1, "summary")
    check(fs.ukey(top + "/large")["algorithm"].endswith("CRC32C"), "a checksum")
    fs.mv(top + "/large", top + "/moved")
    fs.chmod(top + "/moved", 600)
    fs.set_replication(top + "/moved", 1)
    check(fs.info(top + "/moved")["permission"] == "600", fs.info(top + "/moved"))
    check(fs.home_directory() == f"/user/{user}", fs.home_directory())
    raises(FileNotFoundError, lambda: fs.ls(top + "/none"))
    raises(FileNotFoundError, lambda: fs.info(top + "/none"))
    fs.rm(top, recursive=True)
    check(not fs.exists(top), "removed")


def pyhdfs(url, user):
    import pyhdfs as library

    client = library.HdfsClient(hosts=url.removeprefix("http://"), user_name=user)
    top = "/clients/pyhdfs"
    check(client.mkdirs(top), "made")
    for name in NAMES:
        path = posixpath.join(top, name)
        client.create(path, name.encode())
        check(client.open(path).read() == name.encode(), name)
    check(sorted(client.listdir(top)) == sorted(NAMES), client.listdir(top))
    raises(library.HdfsFileAlreadyExistsException, lambda: client.create(top + "/plain", b"x"))
    raises(library.HdfsFileNotFoundException, lambda: client.get_file_status(top + "/none"))
    raises(library.HdfsPathIsNotEmptyDirectoryException, lambda: client.delete(top))
    client.append(top + "/plain", b" and more")
    check(client.open(top + "/plain", offset=5, length=4).read() == b" and", "a range")
    client.create(top + "/second", io.BytesIO(b"second").read())
    client.concat(top + "/plain", [top + "/second"])
    check(client.open(top + "/plain").read() == b"plain and moresecond", "joined")
    client.set_xattr(top + "/plain", "user.colour", "blue", flag="CREATE")
    check(client.get_xattrs(top + "/plain", "user.colour", encoding="text") == {"user.colour": "blue"}, "xattr")
    check(client.list_xattrs(top + "/plain") == ["user.colour"], "xattrs")
    client.remove_xattr(top + "/plain", "user.colour")
    client.set_permission(top + "/plain", permission=0o400)
    check(client.get_file_checksum(top + "/plain").length == 28, "checksum")
    check(client.get_content_summary(top).fileCount == len(NAMES), "summary")
    check(client.rename(top + "/plain", top + "/other"), "renamed")
    check(not client.rename(top + "/plain", top + "/other"), "nothing to rename")
    client.create_symlink(top + "/link", top + "/other")
    check(client.get_file_status(top + "/link").length == 5, "followed")
    check(client.delete(top, recursive=True), "deleted")


CLIENTS = {"hdfscli": hdfscli, "fsspec": fsspec_client, "pyhdfs": pyhdfs}


def main():
    url, user, *chosen = sys.argv[1:]
    for name in chosen or CLIENTS:
        CLIENTS[name](url, user)
        print(f"{name}: round trip done")


if __name__ == "__main__":
    main()
