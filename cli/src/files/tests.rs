//! The service over a stream in memory, asked by hyper's client.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use super::{Root, serve};

/// Longer than two chunks, and not a multiple of one.
const LEN: usize = 600_001;

struct Client {
    requests: SendRequest<Empty<Bytes>>,
    dir: TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Client {
    /// A client of a directory with `data.bin`, `sub/page.html`, `sub/a b&c`, and links that lead
    /// out of it.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("data.bin"), content()).unwrap();
        std::fs::write(root.join("sub/page.html"), "page").unwrap();
        std::fs::write(root.join("sub/a b&c"), "odd").unwrap();
        std::fs::write(root.join("sub/.hidden"), "hidden").unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        symlink("sub/page.html", root.join("inside")).unwrap();

        let root = Arc::new(Root::open(&root).unwrap());
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(theirs, root));
        let (requests, connection) = handshake(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection);
        Self { requests, dir }
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).unwrap();
        self.requests.ready().await.unwrap();
        let response = self.requests.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }
}

fn content() -> Vec<u8> {
    (0..LEN).map(|i| (i * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn whole_files_come_byte_for_byte_with_their_type() {
    let mut client = Client::new().await;
    let answer = client.get("/data.bin?x=1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), LEN.to_string());
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.body, content());
    let answer = client.get("/sub/page.html").await;
    assert_eq!(answer.header("content-type"), "text/html");
    assert_eq!(answer.body, "page");
    assert_eq!(client.get("/sub/a%20b%26c").await.body, "odd");
    assert_eq!(client.get("/inside").await.body, "page");
}

#[tokio::test]
async fn head_has_the_headers_and_no_body() {
    let mut client = Client::new().await;
    let answer = client.ask("HEAD", "/data.bin", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), LEN.to_string());
    assert_eq!(answer.header("accept-ranges"), "bytes");
    assert!(answer.body.is_empty());
    // The connection is still in step.
    assert_eq!(client.get("/sub/page.html").await.body, "page");
}

#[tokio::test]
async fn ranges() {
    let mut client = Client::new().await;
    let content = content();
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=262140-262150", 262_140..262_151),
        ("bytes=600000-", 600_000..LEN),
        ("bytes=-5", LEN - 5..LEN),
    ] {
        let answer = client.ask("GET", "/data.bin", &[("range", range)]).await;
        assert_eq!(answer.status, 206, "{range}");
        let expected = format!("bytes {}-{}/{LEN}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), expected);
        assert_eq!(answer.body, content[part], "{range}");
    }
    let answer = client.ask("GET", "/data.bin", &[("range", "bytes=600001-")]).await;
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), format!("bytes */{LEN}"));
    let answer = client.ask("GET", "/data.bin", &[("range", "bytes=0-1,3-4")]).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, LEN));
}

#[tokio::test]
async fn preconditions() {
    let mut client = Client::new().await;
    let first = client.ask("HEAD", "/data.bin", &[]).await;
    let etag = first.header("etag").to_owned();
    let modified = first.header("last-modified").to_owned();

    let status = |answer: Answer| answer.status.as_u16();
    let known = [("if-none-match", etag.as_str())];
    assert_eq!(status(client.ask("GET", "/data.bin", &known).await), 304);
    let known = [("if-modified-since", modified.as_str())];
    assert_eq!(status(client.ask("GET", "/data.bin", &known).await), 304);
    // The entity tag wins over the date.
    let other = [("if-none-match", "\"x\""), ("if-modified-since", &modified)];
    assert_eq!(status(client.ask("GET", "/data.bin", &other).await), 200);

    let same = [("range", "bytes=1-2"), ("if-range", etag.as_str())];
    assert_eq!(status(client.ask("GET", "/data.bin", &same).await), 206);
    let changed = [("range", "bytes=1-2"), ("if-range", "\"x\"")];
    assert_eq!(status(client.ask("GET", "/data.bin", &changed).await), 200);
}

#[tokio::test]
async fn nothing_outside_of_the_root_is_served() {
    let mut client = Client::new().await;
    assert!(client.dir.path().join("secret").exists());
    for path in [
        "/../secret",
        "/%2e%2e/secret",
        "/sub/../../secret",
        "/sub/%2e%2e%2f%2e%2e%2fsecret",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/link",
        "/absolute",
        "/data.bin/",
        "/data.bin%00.html",
        "/missing",
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.body, "404 Not Found\n", "{path}");
    }
}

#[tokio::test]
async fn directories_are_listed_or_show_their_index() {
    let mut client = Client::new().await;
    let answer = client.get("/sub").await;
    assert_eq!(answer.status, 301);
    assert_eq!(answer.header("location"), "/sub/");
    let answer = client.get("/sub/").await;
    let page = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(page.contains("<a href=\"./a%20b%26c\">a b&amp;c</a>"), "{page}");
    assert!(page.contains("<a href=\"./../\">"), "{page}");
    assert!(!page.contains("hidden"), "{page}");
    let page = client.get("/").await.body;
    assert!(String::from_utf8_lossy(&page).contains("<a href=\"./sub/\">sub/</a>"));

    std::fs::write(client.dir.path().join("root/index.html"), "index").unwrap();
    let answer = client.get("/").await;
    assert_eq!((answer.header("content-type"), &answer.body[..]), ("text/html", &b"index"[..]));
}

#[tokio::test]
async fn other_methods_are_refused() {
    let mut client = Client::new().await;
    let answer = client.ask("DELETE", "/data.bin", &[]).await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("allow"), "GET, HEAD");
}
