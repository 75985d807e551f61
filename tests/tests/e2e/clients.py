"""Round trips of WebHDFS clients that people use, unchanged, against a running cluster: HdfsCLI, fsspec, PyHDFS, PySpark.

Usage: clients.py http://HOST:PORT USER [hdfscli|fsspec|pyhdfs|pyspark|failover ...]. Each begins with an empty directory of its own.
`failover` takes several addresses with `;` between them.
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
    check(client.get_file_status(top + "/link").length == 20, "followed")
    check(client.delete(top, recursive=True), "deleted")


def hadoop_checksum(jvm, content):
    """The checksum that HDFS has of a file of one block, made by Hadoop's own classes."""
    crcs = bytearray()
    for start in range(0, len(content), 512):
        crc = jvm.java.util.zip.CRC32C()
        crc.update(bytearray(content[start : start + 512]))
        crcs += crc.getValue().to_bytes(4, "big")
    # HDFS gathers the MD5s of blocks in this buffer, and hashes all of it.
    buffer = jvm.org.apache.hadoop.io.DataOutputBuffer()
    jvm.org.apache.hadoop.io.MD5Hash.digest(crcs).write(buffer)
    return jvm.org.apache.hadoop.fs.MD5MD5CRC32CastagnoliFileChecksum(
        512, 0, jvm.org.apache.hadoop.io.MD5Hash.digest(buffer.getData())
    )


def pyspark(url, user):
    os.environ["HADOOP_USER_NAME"] = user
    from pyspark.sql import SparkSession

    top = url.replace("http://", "webhdfs://") + "/clients/pyspark"
    builder = SparkSession.builder.master("local[2]").appName("clients")
    for key, value in {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": top + "/warehouse",
    }.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    try:
        rows = [(number, f"name {number}", ["red", "a b=c%", "ümläut"][number % 3]) for number in range(2000)]
        frame = spark.createDataFrame(rows, ["number", "name", "colour"])
        for form in ["parquet", "csv", "json"]:
            path = f"{top}/{form}"
            options = {"header": "true", "inferSchema": "true"} if form == "csv" else {}
            frame.repartition(2).write.partitionBy("colour").format(form).options(**options).save(path)
            # A second time in its place: renames and deletes on the way.
            frame.coalesce(1).write.mode("overwrite").partitionBy("colour").format(form).options(**options).save(path)
            back = spark.read.format(form).options(**options).load(path)
            found = sorted((row["number"], row["name"], row["colour"]) for row in back.collect())
            check(found == sorted(rows), f"{form}: {found[:3]}")
            check(back.where("colour = 'red'").count() == 667, f"{form}: one partition")

        jvm = spark._jvm
        Path = jvm.org.apache.hadoop.fs.Path
        fs = Path(top).getFileSystem(spark._jsc.hadoopConfiguration())
        for content in [os.urandom(300_001), b"x", b""]:
            stream = fs.create(Path(top + "/sum"), True)
            stream.write(bytearray(content))
            stream.close()
            sum = fs.getFileChecksum(Path(top + "/sum"))
            if content:
                check(sum.toString() == hadoop_checksum(jvm, content).toString(), sum.toString())
            else:
                check(sum.toString().endswith("70bc8f4b72a86921468bf8e8441dce51"), sum.toString())
        stream = fs.append(Path(top + "/sum"))
        stream.write(bytearray(b"appended"))
        stream.close()
        check(fs.getFileStatus(Path(top + "/sum")).getLen() == 8, "appended")
        blocks = fs.getFileBlockLocations(fs.getFileStatus(Path(top + "/sum")), 0, 8)
        check(len(blocks) == 1 and len(blocks[0].getHosts()) == 3, "a block on three hosts")

        shell = jvm.org.apache.hadoop.fs.FsShell(spark._jsc.hadoopConfiguration())
        array = lambda *words: to_java(spark.sparkContext._gateway, words)
        for words in [
            ("-mkdir", "-p", top + "/shell/a b"),
            ("-cp", top + "/sum", top + "/shell/a b/copy"),
            ("-mv", top + "/shell/a b/copy", top + "/shell/moved"),
            ("-chmod", "600", top + "/shell/moved"),
            ("-setrep", "2", top + "/shell/moved"),
            ("-touchz", top + "/shell/empty"),
            ("-setfattr", "-n", "user.a", "-v", "b", top + "/shell/moved"),
            ("-getfattr", "-d", top + "/shell/moved"),
            ("-checksum", top + "/shell/moved"),
            ("-truncate", "3", top + "/shell/moved"),
            ("-count", top + "/shell"),
            ("-ls", "-R", top + "/shell"),
            ("-rm", "-r", "-skipTrash", top + "/shell"),
        ]:
            check(shell.run(array(*words)) == 0, words)
        check(fs.delete(Path(top), True), "deleted")
    finally:
        spark.stop()


def to_java(gateway, words):
    array = gateway.new_array(gateway.jvm.java.lang.String, len(words))
    for index, word in enumerate(words):
        array[index] = word
    return array


def failover(urls, user):
    """Waits for a line in the middle of an upload and a download, when somebody kills the leader."""
    from hdfs import InsecureClient

    client = InsecureClient(urls, user=user)
    top = "/clients/failover"
    content = os.urandom(48 << 20)
    client.write(top + "/there", data=content)
    with client.read(top + "/there", chunk_size=1 << 20) as pieces:
        read = [next(pieces) for _ in range(4)]

        def upload():
            for start in range(0, len(content), 1 << 20):
                if start == len(content) // 2:
                    print("failover: in the middle", flush=True)
                    sys.stdin.readline()
                    read.extend(pieces)
                yield content[start : start + (1 << 20)]

        client.write(top + "/new", data=upload())
    check(b"".join(read) == content, "downloaded")
    with client.read(top + "/new") as back:
        check(back.read() == content, "uploaded")
    client.rename(top + "/new", top + "/renamed")
    check(sorted(client.list(top)) == ["renamed", "there"], client.list(top))
    client.delete(top, recursive=True)


CLIENTS = {"hdfscli": hdfscli, "fsspec": fsspec_client, "pyhdfs": pyhdfs}
MORE = {"pyspark": pyspark, "failover": failover}


def main():
    url, user, *chosen = sys.argv[1:]
    for name in chosen or CLIENTS:
        (CLIENTS | MORE)[name](url, user)
        print(f"{name}: round trip done")


if __name__ == "__main__":
    main()
