//! Names, attributes and listings.

use cairn_tests::harness::MiniCluster;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Web, options};

async fn status(web: &Web, path: &str) -> Value {
    web.get(&format!("{path}?op=GETFILESTATUS")).await["FileStatus"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_made_listed_moved_and_removed() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    let yes = json!({ "boolean": true });
    let no = json!({ "boolean": false });
    assert_eq!(web.put("/a/b/c?op=MKDIRS&permission=1750").await, yes);
    assert_eq!(web.put("/a/b/c?op=MKDIRS").await, yes);
    let made = status(&web, "/a/b/c").await;
    assert_eq!(
        (&made["type"], &made["permission"], &made["childrenNum"]),
        (&json!("DIRECTORY"), &json!("1750"), &json!(0))
    );
    web.create("/a/file", "hello").await;
    let file = status(&web, "/a/file").await;
    for (key, expected) in [
        ("type", json!("FILE")),
        ("length", json!(5)),
        ("owner", json!("root")),
        ("group", json!("root")),
        ("pathSuffix", json!("")),
        ("permission", json!("644")),
        ("replication", json!(3)),
        ("blockSize", json!(8 << 20)),
        ("storagePolicy", json!(0)),
    ] {
        assert_eq!(file[key], expected, "{key}");
    }
    assert!(file["modificationTime"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(file["fileId"].as_u64().unwrap() > 0);

    // What is in a file's place is no directory.
    let message = web
        .refused(
            Method::PUT,
            "/a/file?op=MKDIRS",
            403,
            "FileAlreadyExistsException",
        )
        .await;
    assert!(message.contains("not a directory"), "{message}");
    web.refused(
        Method::PUT,
        "/a/file/x?op=MKDIRS",
        403,
        "ParentNotDirectoryException",
    )
    .await;

    // The first rename moves into directories and says no; the second names exactly and throws.
    assert_eq!(web.put("/a/file?op=RENAME&destination=/a/b").await, yes);
    assert_eq!(status(&web, "/a/b/file").await["length"], 5);
    assert_eq!(web.put("/a/none?op=RENAME&destination=/a/x").await, no);
    assert_eq!(web.put("/a/b?op=RENAME&destination=/a/b/c").await, no);
    assert_eq!(web.put("/a/b/file?op=RENAME&destination=/none/x").await, no);
    web.create("/a/other", "other").await;
    assert_eq!(
        web.put("/a/b/file?op=RENAME&destination=/a/other").await,
        no
    );
    web.refused(
        Method::PUT,
        "/a/b/file?op=RENAME&destination=/a/other&renameoptions=NONE",
        403,
        "FileAlreadyExistsException",
    )
    .await;
    let answer = web
        .put("/a/b/file?op=RENAME&destination=/a/other&renameoptions=overwrite")
        .await;
    assert_eq!(answer, Value::Null);
    assert_eq!(web.read("/a/other?op=OPEN").await, b"hello");
    web.refused(
        Method::PUT,
        "/a/none?op=RENAME&destination=/a/x&renameoptions=OVERWRITE",
        404,
        "FileNotFoundException",
    )
    .await;
    web.refused(
        Method::PUT,
        "/a/other?op=RENAME&destination=x",
        400,
        "IllegalArgumentException",
    )
    .await;

    web.refused(
        Method::DELETE,
        "/a?op=DELETE",
        403,
        "PathIsNotEmptyDirectoryException",
    )
    .await;
    assert_eq!(web.delete("/a/b/c?op=DELETE").await, yes);
    assert_eq!(web.delete("/a?op=DELETE&recursive=true").await, yes);
    assert_eq!(web.delete("/a?op=DELETE&recursive=true").await, no);
    assert_eq!(web.delete("/?op=DELETE&recursive=true").await, no);
    let message = web
        .refused(
            Method::GET,
            "/a?op=GETFILESTATUS",
            404,
            "FileNotFoundException",
        )
        .await;
    assert_eq!(message, "File does not exist: /a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_are_listed_whole_and_in_pages() {
    let mut cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    let fs = cluster.client().await.unwrap();
    fs.mkdir("/many", 0o755).await.unwrap();
    let names: Vec<String> = (0..1203)
        .map(|number| format!("name {number:05}"))
        .collect();
    let made = names
        .iter()
        .map(|name| fs.mkdir(format!("/many/{name}"), 0o700));
    for result in futures::future::join_all(made).await {
        result.unwrap();
    }
    let listing = web.get("/many?op=LISTSTATUS").await;
    let entries = listing["FileStatuses"]["FileStatus"].as_array().unwrap();
    let listed: Vec<&str> = entries
        .iter()
        .map(|entry| entry["pathSuffix"].as_str().unwrap())
        .collect();
    assert_eq!(listed, names);

    let mut paged = Vec::new();
    loop {
        let after = paged.last().cloned().unwrap_or_default();
        let page = web
            .get(&format!("/many?op=LISTSTATUS_BATCH&startAfter={after}"))
            .await;
        let page = &page["DirectoryListing"];
        let entries = &page["partialListing"]["FileStatuses"]["FileStatus"];
        for entry in entries.as_array().unwrap() {
            paged.push(entry["pathSuffix"].as_str().unwrap().to_owned());
        }
        if page["remainingEntries"] == 0 {
            break;
        }
    }
    assert_eq!(paged, names);

    web.create("/file", "x").await;
    let listing = web.get("/file?op=LISTSTATUS").await;
    let entries = listing["FileStatuses"]["FileStatus"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["pathSuffix"]), (1, &json!("")));
    let message = web
        .refused(
            Method::GET,
            "/none?op=LISTSTATUS",
            404,
            "FileNotFoundException",
        )
        .await;
    assert_eq!(message, "File /none does not exist.");

    let summary = &web.get("/?op=GETCONTENTSUMMARY").await["ContentSummary"];
    for (key, expected) in [
        ("directoryCount", 1205),
        ("fileCount", 1),
        ("length", 1),
        ("spaceConsumed", 3),
        ("quota", -1),
    ] {
        assert_eq!(summary[key], expected, "{key}");
    }
    let usage = &web.get("/?op=GETQUOTAUSAGE").await["QuotaUsage"];
    assert_eq!(usage["fileAndDirectoryCount"], 1206);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_are_set_and_told() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    web.create("/file", "x").await;
    web.put("/dir?op=MKDIRS").await;
    web.put("/file?op=SETPERMISSION&permission=601").await;
    web.put("/file?op=SETOWNER&owner=61234&group=61235").await;
    web.put("/file?op=SETTIMES&modificationtime=1234&accesstime=-1")
        .await;
    let file = status(&web, "/file").await;
    assert_eq!(
        (&file["permission"], &file["owner"], &file["group"]),
        (&json!("601"), &json!("61234"), &json!("61235"))
    );
    assert_eq!(file["modificationTime"], 1234);
    assert_ne!(file["accessTime"], 1234);
    web.refused(
        Method::PUT,
        "/file?op=SETOWNER",
        400,
        "IllegalArgumentException",
    )
    .await;
    web.refused(
        Method::PUT,
        "/file?op=SETPERMISSION&permission=1778",
        400,
        "IllegalArgumentException",
    )
    .await;

    let replicate =
        |path: &str, number: u32| format!("{path}?op=SETREPLICATION&replication={number}");
    assert_eq!(web.put(&replicate("/file", 2)).await["boolean"], true);
    assert_eq!(status(&web, "/file").await["replication"], 2);
    assert_eq!(web.put(&replicate("/dir", 2)).await["boolean"], false);
    assert_eq!(web.put(&replicate("/none", 2)).await["boolean"], false);
    web.refused(Method::PUT, &replicate("/file", 0), 403, "IOException")
        .await;
    web.refused(Method::PUT, &replicate("/file", 99), 403, "IOException")
        .await;

    let stranger = Web::new(&cluster).user("4711");
    stranger.get("/file?op=CHECKACCESS&fsaction=--x").await;
    stranger
        .refused(
            Method::GET,
            "/file?op=CHECKACCESS&fsaction=r--",
            403,
            "AccessControlException",
        )
        .await;
    web.refused(
        Method::GET,
        "/file?op=CHECKACCESS&fsaction=q",
        400,
        "IllegalArgumentException",
    )
    .await;

    let home = Web::new(&cluster)
        .user("4711")
        .get("/?op=GETHOMEDIRECTORY")
        .await;
    assert_eq!(home, json!({ "Path": "/user/4711" }));
    let acl = &web.get("/file?op=GETACLSTATUS").await["AclStatus"];
    assert_eq!(
        (&acl["owner"], &acl["entries"]),
        (&json!("61234"), &json!([]))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_control_lists_are_set_told_and_obeyed() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    let stranger = Web::new(&cluster).user("4711");
    let entries = async |path: &str| {
        let status = web.get(&format!("{path}?op=GETACLSTATUS")).await;
        status["AclStatus"]["entries"].clone()
    };
    web.create("/d/f", "content").await;
    web.put("/d/f?op=SETPERMISSION&permission=640").await;
    let open = "/d/f?op=OPEN";
    stranger
        .refused(Method::GET, open, 403, "AccessControlException")
        .await;
    web.put("/d/f?op=MODIFYACLENTRIES&aclspec=user:4711:r--,group:4712:rw-")
        .await;
    assert_eq!(stranger.read(open).await, b"content");
    let status = &web.get("/d/f?op=GETACLSTATUS").await["AclStatus"];
    assert_eq!(
        status["entries"],
        json!(["user:4711:r--", "group::r--", "group:4712:rw-"])
    );
    assert_eq!(status["permission"], "660", "the mask is the group's bits");
    let denied = "/d/f?op=SETACL&aclspec=user::rwx,group::rwx,other::rwx";
    stranger
        .refused(Method::PUT, denied, 403, "AccessControlException")
        .await;
    web.put("/d/f?op=REMOVEACLENTRIES&aclspec=user:4711:").await;
    stranger
        .refused(Method::GET, open, 403, "AccessControlException")
        .await;
    web.put("/d/f?op=REMOVEACL").await;
    let status = &web.get("/d/f?op=GETACLSTATUS").await["AclStatus"];
    assert_eq!(
        (&status["entries"], &status["permission"]),
        (&json!([]), &json!("640"))
    );

    // What is made in a directory gets its default list.
    web.put("/d?op=MODIFYACLENTRIES&aclspec=default:user:4711:rw-")
        .await;
    assert_eq!(
        entries("/d").await,
        json!([
            "default:user::rwx",
            "default:user:4711:rw-",
            "default:group::r-x",
            "default:mask::rwx",
            "default:other::r-x"
        ])
    );
    web.create("/d/g", "x").await;
    assert_eq!(entries("/d/g").await[0], "user:4711:rw-");
    web.put("/d?op=REMOVEDEFAULTACL").await;
    assert_eq!(entries("/d").await, json!([]));
    for (rest, exception) in [
        ("SETACL&aclspec=user:4711:r--", "AclException"),
        (
            "MODIFYACLENTRIES&aclspec=default:user:7:r--",
            "AclException",
        ),
        ("REMOVEACLENTRIES&aclspec=user::", "AclException"),
        ("REMOVEACLENTRIES&aclspec=mask", "AclException"),
    ] {
        let rest = format!("/d/g?op={rest}");
        web.refused(Method::PUT, &rest, 403, exception).await;
    }
    for rest in ["SETACL", "SETACL&aclspec=user:x", "SETACL&aclspec=all::rwx"] {
        let rest = format!("/d/g?op={rest}");
        web.refused(Method::PUT, &rest, 400, "IllegalArgumentException")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xattrs_and_links_are_told_as_hadoop_tells_them() {
    let cluster = MiniCluster::start(options()).await.unwrap();
    let web = Web::new(&cluster);
    web.create("/file", "content").await;
    web.put("/file?op=SETXATTR&xattr.name=user.a&xattr.value=%22blue%22&flag=CREATE")
        .await;
    web.put("/file?op=SETXATTR&xattr.name=user.b&xattr.value=0x00ff")
        .await;
    let all = web.get("/file?op=GETXATTRS&encoding=hex").await;
    let expected = json!({ "XAttrs": [
        { "name": "user.a", "value": "0x626c7565" },
        { "name": "user.b", "value": "0x00ff" },
    ]});
    assert_eq!(all, expected);
    let one = web
        .get("/file?op=GETXATTRS&xattr.name=user.a&encoding=text")
        .await;
    assert_eq!(one["XAttrs"][0]["value"], "\"blue\"");
    let names = web.get("/file?op=LISTXATTRS").await;
    assert_eq!(names, json!({ "XAttrNames": "[\"user.a\",\"user.b\"]" }));
    web.refused(
        Method::PUT,
        "/file?op=SETXATTR&xattr.name=user.a&xattr.value=x&flag=CREATE",
        403,
        "IOException",
    )
    .await;
    web.refused(
        Method::GET,
        "/file?op=GETXATTRS&xattr.name=user.none",
        403,
        "IOException",
    )
    .await;
    web.put("/file?op=REMOVEXATTR&xattr.name=user.a").await;
    web.refused(
        Method::PUT,
        "/file?op=REMOVEXATTR&xattr.name=user.a",
        403,
        "IOException",
    )
    .await;

    web.put("/up/link?op=CREATESYMLINK&destination=/file&createParent=true")
        .await;
    assert_eq!(
        web.get("/up/link?op=GETLINKTARGET").await,
        json!({ "Path": "/file" })
    );
    let link = &web.get("/up/link?op=GETFILELINKSTATUS").await["FileStatus"];
    assert_eq!(
        (&link["type"], &link["symlink"]),
        (&json!("SYMLINK"), &json!("/file"))
    );
    assert_eq!(status(&web, "/up/link").await["length"], 7);
    assert_eq!(web.read("/up/link?op=OPEN").await, b"content");

    // Names that need to be encoded, in paths, parameters and answers.
    for name in ["%20%25%3D%2B", "%C3%A4%20%22%5C", "a+b", "%23%3F%26"] {
        web.create(&format!("/odd/{name}"), name).await;
        assert_eq!(
            web.read(&format!("/odd/{name}?op=OPEN")).await,
            name.as_bytes()
        );
    }
    let listing = web.get("/odd?op=LISTSTATUS").await;
    let entries = listing["FileStatuses"]["FileStatus"].as_array().unwrap();
    let listed: Vec<&str> = entries
        .iter()
        .map(|entry| entry["pathSuffix"].as_str().unwrap())
        .collect();
    assert_eq!(listed, [" %=+", "#?&", "a+b", "ä \"\\"]);
    let moved = web
        .put("/odd/a+b?op=RENAME&destination=/odd/a%20%2B+c")
        .await;
    assert_eq!(moved["boolean"], true);
    status(&web, "/odd/a%20+%20c").await;
}
