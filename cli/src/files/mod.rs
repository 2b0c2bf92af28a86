//! A directory over HTTP/1.1 (RFC 9110, RFC 9112), on any byte stream.

mod body;
mod range;
mod root;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::info;

use body::Body;
use range::Wanted;
use root::Entry;
pub(crate) use root::Root;

/// A connection that sends nothing for this long between requests is closed.
const IDLE: Duration = Duration::from_secs(30);

/// Serves the files below `root` on one connection, request after request, until either side is
/// done with it.
pub(crate) fn serve<T>(stream: T, root: Arc<Root>) -> impl GracefulConnection<Error = hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let root = Arc::clone(&root);
        async move {
            let response = respond(&request, root).await;
            info!(method = %request.method(), path = %request.uri().path(), status = %response.status());
            Ok::<_, Infallible>(response)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
}

async fn respond(request: &Request<Incoming>, root: Arc<Root>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let response = Response::builder().header(header::ALLOW, "GET, HEAD");
        return plain(response, StatusCode::METHOD_NOT_ALLOWED);
    }
    let path = request.uri().path().to_owned();
    let entry = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || root.entry(&path)).await
    };
    match entry.map_err(io::Error::other).flatten() {
        Ok(Entry::File { file, stat, path }) => {
            let version = Version::new(stat.st_size as u64, stat.st_mtime, stat.st_mtime_nsec);
            match choose(request.method(), request.headers(), &version) {
                Choice::Send(status, part) => {
                    let mime = mime_guess::from_path(&path).first_or_octet_stream();
                    let mut response =
                        version.response(status).header(header::CONTENT_TYPE, mime.as_ref());
                    if status == StatusCode::PARTIAL_CONTENT {
                        let range =
                            format!("bytes {}-{}/{}", part.start, part.end - 1, version.len);
                        response = response.header(header::CONTENT_RANGE, range);
                    }
                    if request.method() == Method::HEAD {
                        let len = part.end - part.start;
                        let response = response.header(header::CONTENT_LENGTH, len);
                        return finish(response, Body::from(""));
                    }
                    finish(response, Body::file(file, part))
                }
                Choice::NotModified => {
                    finish(version.response(StatusCode::NOT_MODIFIED), Body::from(""))
                }
                Choice::Unsatisfiable => {
                    let range = format!("bytes */{}", version.len);
                    let response = Response::builder().header(header::CONTENT_RANGE, range);
                    plain(response, StatusCode::RANGE_NOT_SATISFIABLE)
                }
            }
        }
        Ok(Entry::Listing(names)) => {
            let response =
                Response::builder().header(header::CONTENT_TYPE, "text/html; charset=utf-8");
            finish(response, Body::from(listing(&path, &names)))
        }
        Ok(Entry::Unslashed) => {
            // One slash in front: two would name a host.
            let slashed = format!("/{}/", path.trim_start_matches('/'));
            let response = Response::builder().header(header::LOCATION, slashed);
            plain(response, StatusCode::MOVED_PERMANENTLY)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            plain(Response::builder(), StatusCode::NOT_FOUND)
        }
        Err(_) => plain(Response::builder(), StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// What tells one version of a file from another.
struct Version {
    len: u64,
    modified: SystemTime,
    etag: String,
}

impl Version {
    /// From the size in bytes and the modification time in seconds and nanoseconds.
    fn new(len: u64, seconds: i64, nanos: u64) -> Self {
        // HTTP dates know neither fractions nor times before 1970.
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64);
        let etag = format!("\"{seconds:x}.{nanos:x}-{len:x}\"");
        Self { len, modified, etag }
    }

    fn response(&self, status: StatusCode) -> hyper::http::response::Builder {
        Response::builder()
            .status(status)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::ETAG, &self.etag)
            .header(header::LAST_MODIFIED, httpdate::fmt_http_date(self.modified))
    }

    /// True if a list of entity tags names this version (RFC 9110, section 13.1.2).
    fn is_named_by(&self, etags: &str) -> bool {
        let mut etags = etags.split(',').map(str::trim);
        etags.any(|etag| etag == "*" || etag.trim_start_matches("W/") == self.etag)
    }
}

/// What to send of a file.
#[derive(Debug, PartialEq)]
enum Choice {
    /// This part, as 200 or 206.
    Send(StatusCode, Range<u64>),
    /// Nothing: the client has it.
    NotModified,
    /// Nothing: the client asks for bytes that are not there.
    Unsatisfiable,
}

/// Evaluates the preconditions and the range, in the order of RFC 9110, section 13.2.2.
fn choose(method: &Method, headers: &HeaderMap, version: &Version) -> Choice {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let date = |value: &str| httpdate::parse_http_date(value).ok();
    let fresh = match text(header::IF_NONE_MATCH) {
        Some(etags) => version.is_named_by(etags),
        None => text(header::IF_MODIFIED_SINCE)
            .and_then(date)
            .is_some_and(|since| version.modified <= since),
    };
    if fresh {
        return Choice::NotModified;
    }
    let same = text(header::IF_RANGE)
        .is_none_or(|v| v == version.etag || date(v).is_some_and(|d| d == version.modified));
    let wanted = match text(header::RANGE) {
        // A range is defined for GET alone (RFC 9110, section 14.2).
        Some(value) if same && *method == Method::GET => range::parse(value, version.len),
        _ => Wanted::Whole,
    };
    match wanted {
        Wanted::Whole => Choice::Send(StatusCode::OK, 0..version.len),
        Wanted::Part(part) => Choice::Send(StatusCode::PARTIAL_CONTENT, part),
        Wanted::Unsatisfiable => Choice::Unsatisfiable,
    }
}

/// A page that links to `names`, the contents of the directory `path`.
fn listing(path: &str, names: &[OsString]) -> String {
    /// All that RFC 3986 does not allow in a path segment, but for the final slash.
    const SEGMENT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
    let title = escape(&percent_decode_str(path).decode_utf8_lossy());
    let mut page = format!(
        "<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n"
    );
    let parent = (path != "/").then(|| OsString::from("../"));
    for name in parent.iter().chain(names) {
        let link = percent_encode(name.as_bytes(), SEGMENT);
        let text = escape(&Path::new(name).to_string_lossy());
        // "./": a name with a colon is not a scheme.
        let _ = writeln!(page, "<li><a href=\"./{link}\">{text}</a>");
    }
    page.push_str("</ul>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A response whose body is its status in words.
fn plain(response: hyper::http::response::Builder, status: StatusCode) -> Response<Body> {
    let response =
        response.status(status).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    finish(response, Body::from(format!("{status}\n")))
}

fn finish(response: hyper::http::response::Builder, body: Body) -> Response<Body> {
    response.body(body).unwrap_or_else(|_| {
        // A header value that HTTP cannot carry.
        let mut response = Response::new(Body::from(""));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

#[cfg(test)]
mod tests;
