//! Fetches a page with hyper, which does not know whose TCP it runs on.
//!
//! ```console
//! # http_client --device packet:eth1 --addr 10.0.0.2/24 http://10.0.0.1:8080/
//! ```

#![forbid(unsafe_code)]

use std::io::{Write, stdout};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, Uri, client, header};
use hyper_util::rt::TokioIo;
use underpass::TcpStream;
use underpass_examples::Attachment;

/// Fetches a page over HTTP
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// The page, by the address of its server, such as `http://10.0.0.1:8080/`
    url: Uri,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let authority = args.url.authority().context("the URL names no server")?.as_str();
    ensure!(args.url.scheme_str() == Some("http"), "only http:// URLs are fetched");
    let server: SocketAddr = match args.url.port() {
        Some(_) => authority.parse(),
        None => format!("{authority}:80").parse(),
    }
    .context("the server is to be given by its IP address")?;

    let stack = args.attachment.stack()?;
    let stream = TcpStream::connect_async(&stack, server)
        .await
        .with_context(|| format!("connecting to {server}"))?;
    let (mut requests, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);

    let path = args.url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(header::HOST, authority).body(Empty::<Bytes>::new())?;
    let mut response = requests.send_request(request).await?;
    eprintln!("{:?} {}", response.version(), response.status());
    while let Some(frame) = response.frame().await {
        if let Some(data) = frame?.data_ref() {
            stdout().write_all(data)?;
        }
    }
    ensure!(response.status().is_success(), "{}", response.status());
    Ok(())
}
