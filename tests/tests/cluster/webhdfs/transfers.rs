//! Uploads and downloads: redirects, ranges, what breaks off, and what dies on the way.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_tests::harness::{ClusterOptions, MiniCluster, content};
use futures::StreamExt;
use md5::{Digest, Md5};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use reqwest::{Body, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Web, options, refusal};

/// Pieces as they come, some time.
fn pieces(content: &Bytes, piece: usize) -> Vec<Result<Bytes, std::io::Error>> {
    let starts = (0..content.len()).step_by(piece);
    let cut = |start: usize| content.slice(start..content.len().min(start + piece));
    starts.map(|start| Ok(cut(start))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_to_a_datanode_in_two_steps() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster).staying();
    let datanodes: BTreeSet<String> = (0..3)
        .map(|index| cluster.datanode_http(index).unwrap().to_string())
        .collect();
    let authority = |location: &str| {
        let rest = location.strip_prefix("http://").unwrap();
        rest.split_once('/').unwrap().0.to_owned()
    };
    let first = web.send(Method::PUT, "/a%20b?op=CREATE", "").await;
    assert_eq!(first.status(), StatusCode::TEMPORARY_REDIRECT);
    let location = first.headers()[LOCATION].to_str().unwrap().to_owned();
    assert!(datanodes.contains(&authority(&location)), "{location}");
    assert!(
        location.contains("/webhdfs/v1/a%20b?op=CREATE"),
        "{location}"
    );
    // Nothing happens in the first step.
    web.refused(
        Method::GET,
        "/a%20b?op=GETFILESTATUS",
        404,
        "FileNotFoundException",
    )
    .await;
    let put = web
        .client
        .put(&location)
        .body("hello")
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), StatusCode::CREATED);
    assert!(put.headers().contains_key(LOCATION));

    let json = web.get("/a%20b?op=OPEN&noredirect=true").await;
    let location = json["Location"].as_str().unwrap();
    let read = web.client.get(location).send().await.unwrap();
    assert_eq!(read.bytes().await.unwrap(), "hello");
    let json = web.put("/new?op=CREATE&noredirect=true").await;
    assert!(datanodes.contains(&authority(json["Location"].as_str().unwrap())));

    // Those that failed the client are left out; if none is left, the one that was asked does it.
    let two: Vec<&String> = datanodes.iter().take(2).collect();
    for _ in 0..4 {
        let rest = format!(
            "/new?op=CREATE&noredirect=true&excludedatanodes={},{}",
            two[0], two[1]
        );
        let json = web.put(&rest).await;
        let chosen = authority(json["Location"].as_str().unwrap());
        assert_eq!(Some(&chosen), datanodes.last());
    }
    let all: Vec<String> = datanodes.iter().cloned().collect();
    let rest = format!("/new?op=CREATE&excludedatanodes={}", all.join(","));
    let alone = web.send(Method::PUT, &rest, "").await;
    let location = alone.headers()[LOCATION].to_str().unwrap().to_owned();
    assert_eq!(
        authority(&location),
        cluster.namenode_http(0).unwrap().to_string()
    );
    let put = web.client.put(&location).body("x").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_location_has_nothing_but_ascii_though_java_sends_bare_utf8() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let address = cluster.namenode_http(0).unwrap().to_string();
    let mut stream = cairn_protocol::net::connect(&address).await.unwrap();
    let head = "PUT /webhdfs/v1/\u{fc}%20%2B+x?op=CREATE&user.name=root HTTP/1.1\r\nHost: x\r\n\
        Content-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.contains("/webhdfs/v1/%C3%BC%20%2B+x?op=CREATE"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_uploaded_is_downloaded_in_any_part() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    let large = content(1, 21_000_000);
    // In chunks, without a length: as Java and generators send.
    let stream = futures::stream::iter(pieces(&large, 32 << 10));
    let staying = Web::new(&cluster).staying();
    let json = staying.put("/large?op=CREATE&noredirect=true").await;
    let location = json["Location"].as_str().unwrap();
    let put = web.client.put(location).body(Body::wrap_stream(stream));
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
    assert!(web.read("/large?op=OPEN").await == large);
    web.create("/empty", "").await;
    assert!(web.read("/empty?op=OPEN").await.is_empty());

    let part = web.read("/large?op=OPEN&offset=8388600&length=100").await;
    assert!(part == large[8_388_600..8_388_700]);
    assert!(web.read("/large?op=OPEN&offset=20999990").await == large[20_999_990..]);
    assert!(web.read("/large?op=OPEN&offset=20999990&length=100").await == large[20_999_990..]);
    let message = web
        .refused(
            Method::GET,
            "/large?op=OPEN&offset=21000000",
            403,
            "IOException",
        )
        .await;
    assert!(message.contains("out of the range"), "{message}");

    let ranged = |range: &'static str| {
        web.client
            .get(web.url("/large?op=OPEN"))
            .header(RANGE, range)
            .send()
    };
    let middle = ranged("bytes=1000-1999").await.unwrap();
    assert_eq!(middle.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(middle.headers()[CONTENT_RANGE], "bytes 1000-1999/21000000");
    assert!(middle.bytes().await.unwrap() == large[1000..2000]);
    let tail = ranged("bytes=-5").await.unwrap();
    assert!(tail.bytes().await.unwrap() == large[20_999_995..]);
    let beyond = ranged("bytes=21000000-").await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let head = web
        .client
        .head(web.url("/large?op=OPEN&offset=1000"))
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[CONTENT_LENGTH], "20999000");
    web.refused(Method::GET, "/?op=OPEN", 404, "FileNotFoundException")
        .await;
    web.refused(Method::GET, "/none?op=OPEN", 404, "FileNotFoundException")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_made_appended_joined_and_cut_as_asked() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    let made = web
        .send(
            Method::PUT,
            "/d/f?op=CREATE&permission=600&replication=2&blocksize=1048576",
            "one ",
        )
        .await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let status = &web.get("/d/f?op=GETFILESTATUS").await["FileStatus"];
    assert_eq!(
        (&status["permission"], &status["replication"]),
        (&"600".into(), &2.into())
    );
    let message = web
        .refused(
            Method::PUT,
            "/d/f?op=CREATE",
            403,
            "FileAlreadyExistsException",
        )
        .await;
    assert!(message.contains("already exists"), "{message}");
    web.refused(
        Method::PUT,
        "/d?op=CREATE&overwrite=true",
        403,
        "FileAlreadyExistsException",
    )
    .await;
    web.refused(
        Method::PUT,
        "/no/f?op=CREATE&createparent=false",
        404,
        "FileNotFoundException",
    )
    .await;
    web.refused(
        Method::PUT,
        "/g?op=CREATE&replication=0",
        403,
        "IOException",
    )
    .await;
    web.refused(
        Method::PUT,
        "/g?op=CREATE&permission=9",
        400,
        "IllegalArgumentException",
    )
    .await;

    let appended = web.send(Method::POST, "/d/f?op=APPEND", "two").await;
    assert_eq!(appended.status(), StatusCode::OK);
    assert_eq!(web.read("/d/f?op=OPEN").await, b"one two");
    web.refused(
        Method::POST,
        "/none?op=APPEND",
        404,
        "FileNotFoundException",
    )
    .await;
    web.refused(Method::POST, "/d?op=APPEND", 404, "FileNotFoundException")
        .await;

    web.create("/d/g", " three").await;
    web.create("/d/h", " four").await;
    web.post("/d/f?op=CONCAT&sources=/d/g,/d/h").await;
    assert_eq!(web.read("/d/f?op=OPEN").await, b"one two three four");
    web.refused(
        Method::GET,
        "/d/g?op=GETFILESTATUS",
        404,
        "FileNotFoundException",
    )
    .await;
    web.refused(
        Method::POST,
        "/d/f?op=CONCAT&sources=/d/g",
        404,
        "FileNotFoundException",
    )
    .await;
    assert_eq!(
        web.post("/d/f?op=TRUNCATE&newlength=7").await["boolean"],
        true
    );
    assert_eq!(web.read("/d/f?op=OPEN").await, b"one two");
    web.refused(
        Method::POST,
        "/d/f?op=TRUNCATE&newlength=8",
        400,
        "HadoopIllegalArgumentException",
    )
    .await;
}

/// CRC32C bit by bit, as its definition says.
fn crc32c_of(bytes: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (index, entry) in (0_u32..).zip(table.iter_mut()) {
        *entry = (0..8).fold(index, |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        });
    }
    let update = |crc: u32, byte: &u8| (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)];
    !bytes.iter().fold(!0, update)
}

/// What HDFS has of a file: its buffer of MD5s, of 32 bytes or twice as many until all fit, is hashed whole.
fn md5_of_md5s(bytes: &[u8], block: usize) -> [u8; 16] {
    let mut buffer = Vec::new();
    for block in bytes.chunks(block) {
        let crcs: Vec<u8> = block
            .chunks(512)
            .flat_map(|group| crc32c_of(group).to_be_bytes())
            .collect();
        buffer.extend_from_slice(&Md5::digest(crcs));
    }
    let mut length = 32;
    while length < buffer.len() {
        length *= 2;
    }
    buffer.resize(length, 0);
    Md5::digest(buffer).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checksums_and_blocks_are_those_that_hadoop_would_tell() {
    let cluster = MiniCluster::start(ClusterOptions {
        chunk_size: 1 << 20,
        ..options()
    })
    .await
    .unwrap();
    let web = Web::new(&cluster);
    web.create("/empty", "").await;
    let sum = &web.get("/empty?op=GETFILECHECKSUM").await["FileChecksum"];
    assert_eq!(
        sum["bytes"],
        "00000000000000000000000070bc8f4b72a86921468bf8e8441dce51"
    );
    let bytes = content(2, 2_500_000);
    web.create("/file", bytes.clone()).await;
    let sum = &web.get("/file?op=GETFILECHECKSUM").await["FileChecksum"];
    assert_eq!(sum["algorithm"], "MD5-of-2048MD5-of-512CRC32C");
    // Made by a program of its own from the same bytes: see `clients.py`, which compares with Hadoop's code, too.
    let text = sum["bytes"].as_str().unwrap();
    let expected = [
        &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        &md5_of_md5s(&bytes, 1 << 20)[..],
    ];
    assert_eq!(text, hex(&expected.concat()));
    let sum = &web
        .get("/file?op=GETFILECHECKSUM&combinemode=COMPOSITE_CRC")
        .await["FileChecksum"];
    let crc = crc32c_of(&bytes);
    assert_eq!(sum["algorithm"], "COMPOSITE-CRC32C");
    assert_eq!(sum["bytes"], format!("{crc:08x}"));

    let located = &web.get("/file?op=GET_BLOCK_LOCATIONS").await["LocatedBlocks"];
    assert_eq!(located["fileLength"], 2_500_000);
    let blocks = located["locatedBlocks"].as_array().unwrap();
    let spans: Vec<(u64, u64)> = blocks
        .iter()
        .map(|block| {
            let start = block["startOffset"].as_u64().unwrap();
            (start, block["block"]["numBytes"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        spans,
        [(0, 1 << 20), (1 << 20, 1 << 20), (2 << 20, 402_848)]
    );
    for block in blocks {
        let locations = block["locations"].as_array().unwrap();
        assert_eq!(locations.len(), 3);
        assert!(
            locations[0]["hostName"]
                .as_str()
                .unwrap()
                .starts_with("host-")
        );
        assert_ne!(locations[0]["infoPort"], 0);
    }
    assert_eq!(located["lastLocatedBlock"], blocks[2]);
    let locations = web
        .get("/file?op=GETFILEBLOCKLOCATIONS&offset=1100000&length=10")
        .await;
    let blocks = locations["BlockLocations"]["BlockLocation"]
        .as_array()
        .unwrap();
    assert_eq!(blocks.len(), 1);
    assert_eq!(
        (&blocks[0]["offset"], &blocks[0]["length"]),
        (&(1 << 20).into(), &(1 << 20).into())
    );
    assert_eq!(blocks[0]["hosts"].as_array().unwrap().len(), 3);
    let none = web.get("/empty?op=GETFILEBLOCKLOCATIONS").await;
    assert!(
        none["BlockLocations"]["BlockLocation"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

/// Says that it sends so many bytes, and hangs up before.
async fn upload_that_breaks(address: std::net::SocketAddr, rest: &str, sent: &[u8]) {
    let mut stream = cairn_protocol::net::connect(&address.to_string())
        .await
        .unwrap();
    let head = format!(
        "PUT {rest}&user.name=root&namenoderpcaddress=x HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    // The server's answer, if any, to nobody.
    let _ = stream.read_to_end(&mut rest).await;
    let text = String::from_utf8_lossy(&rest);
    assert!(!text.contains("201 Created"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_upload_leaves_nothing_and_takes_nothing_away() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    web.create("/old", "as it was").await;
    let datanode = cluster.datanode_http(0).unwrap();
    for sent in [0, 1000, 5 << 20] {
        let sent = content(3, sent);
        upload_that_breaks(datanode, "/webhdfs/v1/new?op=CREATE", &sent).await;
        upload_that_breaks(datanode, "/webhdfs/v1/old?op=CREATE&overwrite=true", &sent).await;
        web.refused(
            Method::GET,
            "/new?op=GETFILESTATUS",
            404,
            "FileNotFoundException",
        )
        .await;
        assert_eq!(web.read("/old?op=OPEN").await, b"as it was");
    }
    let listing = web.get("/?op=LISTSTATUS").await;
    let entries = listing["FileStatuses"]["FileStatus"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upload_leaves_the_connection_usable() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster).staying();
    web.create_here(&cluster, "/old").await;
    let address = cluster.datanode_http(1).unwrap().to_string();
    let mut stream = cairn_protocol::net::connect(&address).await.unwrap();
    // All of the body is sent, whatever the answer; then the next request on the same connection.
    let body = vec![b'x'; 300_000];
    let head = format!(
        "PUT /webhdfs/v1/old?op=CREATE&user.name=root&namenoderpcaddress=x HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(next.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert!(answers.starts_with("HTTP/1.1 403"), "{answers}");
    assert!(answers.contains("FileAlreadyExistsException"), "{answers}");
    assert!(answers.ends_with("alive\n"), "{answers}");
}

impl Web {
    /// A file made through a datanode's gateway, without a first step.
    async fn create_here(&self, cluster: &MiniCluster, path: &str) {
        let there = Self::at(cluster.datanode_http(0).unwrap());
        let rest = format!("{path}?op=CREATE&namenoderpcaddress=x");
        let made = there.send(Method::PUT, &rest, "x").await;
        assert_eq!(made.status(), StatusCode::CREATED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_reads_and_writes_at_once_on_one_gateway() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let there = Web::at(cluster.datanode_http(0).unwrap());
    let bytes = content(4, 9_000_000);
    there.create("/from", bytes.clone()).await;
    let read = there
        .send(Method::GET, "/from?op=OPEN&namenoderpcaddress=x", "")
        .await;
    let body = Body::wrap_stream(read.bytes_stream());
    let rest = "/to?op=CREATE&namenoderpcaddress=x";
    let made = there.send(Method::PUT, rest, body).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    assert!(there.read("/to?op=OPEN").await == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_survive_the_leader() {
    let mut cluster = MiniCluster::start(ClusterOptions {
        namenodes: 3,
        ..options()
    })
    .await
    .unwrap();
    let leader = cluster.leader().await.unwrap();
    let survivor = (0..3).find(|index| *index != leader).unwrap();
    let web = Web::at(cluster.namenode_http(survivor).unwrap());
    let bytes = content(5, 24_000_000);
    web.create("/there", bytes.clone()).await;

    let (feed, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = futures::stream::unfold(body, async |mut body| {
        body.recv().await.map(|piece| (piece, body))
    });
    let staying = Web::at(cluster.namenode_http(survivor).unwrap()).staying();
    let json = staying.put("/new?op=CREATE&noredirect=true").await;
    let location = json["Location"].as_str().unwrap().to_owned();
    let put = web
        .client
        .put(location)
        .body(Body::wrap_stream(body))
        .send();
    let all = pieces(&bytes, 1 << 20);
    let half = all.len() / 2;
    let mut all = all.into_iter();
    let sending = async {
        for piece in all.by_ref().take(half) {
            feed.send(piece).await.unwrap();
        }
        let mut download = web
            .send(Method::GET, "/there?op=OPEN", "")
            .await
            .bytes_stream();
        let mut read = download.next().await.unwrap().unwrap().to_vec();
        cluster.kill_namenode(leader).await;
        for piece in all {
            feed.send(piece).await.unwrap();
        }
        drop(feed);
        while let Some(piece) = download.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert!(read == bytes);
    };
    let (put, ()) = futures::join!(put, sending);
    assert_eq!(put.unwrap().status(), StatusCode::CREATED);
    assert!(web.read("/new?op=OPEN").await == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_hears_it_before_sending() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let stranger = Web::new(&cluster).user("4711").staying();
    let first = stranger.send(Method::PUT, "/mine?op=CREATE", "").await;
    let message = refusal(first, 403, "AccessControlException").await;
    assert!(
        message.starts_with("Permission denied: user=4711"),
        "{message}"
    );
    let web = Web::new(&cluster);
    web.create("/secret", "x").await;
    web.put("/secret?op=SETPERMISSION&permission=600").await;
    for (method, op) in [
        (Method::GET, "OPEN"),
        (Method::POST, "APPEND"),
        (Method::GET, "GETFILECHECKSUM"),
    ] {
        let rest = format!("/secret?op={op}");
        stranger
            .refused(method.clone(), &rest, 403, "AccessControlException")
            .await;
        // Nor in the second step.
        let there = Web::at(cluster.datanode_http(0).unwrap()).user("4711");
        let rest = format!("{rest}&namenoderpcaddress=x");
        there
            .refused(method, &rest, 403, "AccessControlException")
            .await;
    }
}
