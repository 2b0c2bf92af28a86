//! `underpass echo`

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tracing::info;
use underpass::{Stack, UdpSocket};

use crate::attach::Attachment;
use crate::interrupt::interrupted;
use crate::server::{accept, announce, finish, listen};

/// Arguments of `echo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Port (RFC 862 gives 7)
    #[arg(long, default_value_t = 7)]
    port: u16,
    /// UDP datagrams instead of TCP connections
    #[arg(long)]
    udp: bool,
}

/// Echoes until SIGINT.
pub(crate) async fn run(args: &Args, json: bool) -> Result<ExitCode> {
    let interrupted = interrupted()?;
    let stack = args.attachment.stack()?;
    let result = tokio::select! {
        result = serve(args, &stack, json) => result,
        () = interrupted => Ok(()),
    };
    finish(&args.attachment, stack, json).await;
    result.map(|()| ExitCode::SUCCESS)
}

/// Sends everything back that `stream` brings, until the peer ends it.
pub(crate) async fn echo(stream: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

async fn serve(args: &Args, stack: &Stack, json: bool) -> Result<()> {
    args.attachment.configured(stack).await?;
    if args.udp {
        let addr = SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port));
        let socket = UdpSocket::bind(stack, addr)
            .with_context(|| format!("binding UDP port {}", args.port))?;
        announce(&args.attachment, stack, args.port, "udp", json);
        return echo_datagrams(socket).await.context("receiving");
    }
    let listener = listen(stack, args.port)?;
    announce(&args.attachment, stack, args.port, "tcp", json);
    // They end with this function.
    let mut connections = JoinSet::new();
    loop {
        let stream = accept(&listener).await?;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            if let Err(error) = echo(stream).await {
                info!("connection ended: {error}");
            }
        });
    }
}

async fn echo_datagrams(socket: UdpSocket) -> io::Result<()> {
    // The largest datagram there is.
    let mut datagram = vec![0; 65_535];
    loop {
        let (len, peer) = socket.recv_from_async(&mut datagram).await?;
        let Some(received) = datagram.get(..len) else {
            continue;
        };
        // As every datagram, the answer may be lost; the next one is another matter.
        if let Err(error) = socket.send_to_async(received, peer).await {
            info!("answering {peer}: {error}");
        }
    }
}
