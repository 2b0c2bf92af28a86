//! A web service with axum, which runs unchanged: all it needs is a listener.
//!
//! ```console
//! # axum_server --device tap:tap0,host=10.7.0.1/24 --addr 10.7.0.2/24
//! $ curl http://10.7.0.2/hello/you
//! ```

#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::{ConnectInfo, Path};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use clap::Parser;
use tokio::signal::ctrl_c;
use underpass::{TcpListener, TcpStream};
use underpass_examples::Attachment;

/// A web service: GET /hello/NAME, POST /length
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// TCP port
    #[arg(long, default_value_t = 80)]
    port: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let service = Router::new()
        .route("/hello/{name}", get(hello))
        .route("/length", post(async |body: String| body.len().to_string()))
        .into_make_service_with_connect_info::<Peer>();

    let stack = args.attachment.stack()?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port));
    let listener = Listener(TcpListener::bind(&stack, address)?);
    println!("listening on port {}", args.port);
    let interrupted = async { ctrl_c().await.unwrap_or_else(|error| eprintln!("{error}")) };
    axum::serve(listener, service).with_graceful_shutdown(interrupted).await?;
    Ok(())
}

async fn hello(Path(name): Path<String>, ConnectInfo(Peer(peer)): ConnectInfo<Peer>) -> String {
    format!("Hello {name} at {}!\n", peer.ip())
}

/// The stack's listener, for axum.
struct Listener(TcpListener);

impl axum::serve::Listener for Listener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.accept_async().await {
                Ok(accepted) => return accepted,
                Err(error) => eprintln!("accepting a connection: {error}"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }
}

/// Who asks.
#[derive(Clone)]
struct Peer(SocketAddr);

impl axum::extract::connect_info::Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(*stream.remote_addr())
    }
}
