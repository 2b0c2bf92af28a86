//! An HTTP/1.1 GET on any byte stream.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::{Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where to fetch what: an `http` URL.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    /// Name or address.
    pub(crate) host: String,
    /// Port, 80 unless the URL says otherwise.
    pub(crate) port: u16,
    /// `Host` header: name or address, and the port if the URL has one.
    authority: String,
    /// Path and query.
    target: String,
}

impl Url {
    /// `path` of the server at `server`.
    pub(crate) fn new(server: SocketAddr, path: &str) -> Self {
        Self {
            host: server.ip().to_string(),
            port: server.port(),
            authority: server.to_string(),
            target: path.to_owned(),
        }
    }

    /// The last segment of the path, if it has one: the name a file would have.
    pub(crate) fn file_name(&self) -> Option<&str> {
        let path = self.target.split('?').next()?;
        let name = path.rsplit('/').next()?;
        (!matches!(name, "" | "." | "..")).then_some(name)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.target)
    }
}

impl FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().context("not a URL")?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => bail!("https is not supported, only http"),
            _ => bail!("not a URL such as http://example.com/file or http://[fd00::1]:8080/file"),
        }
        let (authority, host) = (uri.authority().map(ToString::to_string), uri.host());
        let (Some(authority), Some(host)) = (authority, host) else {
            bail!("the URL has no host");
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(80);
        let target = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { host, port, authority, target })
    }
}

/// The body of an answer with status 200, piece by piece.
pub(crate) struct Download {
    response: Response<Incoming>,
}

impl Download {
    /// Asks for `url` on `stream`, a connection to its server.
    ///
    /// # Errors
    /// The connection failed, or the server answered anything but 200.
    pub(crate) async fn start<T>(stream: T, url: &Url) -> Result<Self>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut requests, connection) = handshake(TokioIo::new(stream)).await?;
        // Its errors come out of the request and the body as well.
        tokio::spawn(connection);
        let request = Request::get(&url.target)
            .header(header::HOST, &url.authority)
            .header(header::USER_AGENT, concat!("underpass/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let response = requests.send_request(request).await?;
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get(header::LOCATION);
            let location = location.map(|v| String::from_utf8_lossy(v.as_bytes()));
            bail!("the server answered {status}: see {}", location.unwrap_or_default());
        }
        if status != 200 {
            bail!("the server answered {status}");
        }
        Ok(Self { response })
    }

    /// Length of the whole body in bytes, if the server tells.
    pub(crate) fn len(&self) -> Option<u64> {
        self.response.size_hint().exact()
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.response.frame().await {
            // Trailers are not data.
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn urls() {
        let url: Url = "http://10.0.0.1/a/b.bin?c=d".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port), ("10.0.0.1", 80));
        assert_eq!(url.file_name(), Some("b.bin"));
        assert_eq!(url.to_string(), "http://10.0.0.1/a/b.bin?c=d");
        let url: Url = "http://[fd00::1]:8080".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port), ("fd00::1", 8080));
        assert_eq!(url.file_name(), None);
        assert_eq!(url.to_string(), "http://[fd00::1]:8080/");
        let url: Url = "http://files.example:81/a".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port), ("files.example", 81));
        assert_eq!(url.authority, "files.example:81");
    }

    #[test]
    fn what_cannot_be_fetched_is_refused_with_the_reason() {
        for (text, reason) in
            [("https://10.0.0.1/", "only http"), ("10.0.0.1", "not a URL"), ("/file", "not a URL")]
        {
            let error = format!("{:#}", text.parse::<Url>().unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
