//! `underpass http-serve`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use hyper_util::server::graceful::GracefulShutdown;
use tracing::info;

use crate::attach::Attachment;
use crate::files::{Root, serve};
use crate::interrupt::interrupted;
use crate::server::{accept, announce, finish, listen};

/// Arguments of `http-serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Directory whose files are served
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// TCP port
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Spread the connections over so many shards, each on a queue of the device and a thread of its
    /// own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    shards: u8,
}

/// Serves until SIGINT, then finishes the requests under way.
pub(crate) async fn run(args: &Args, json: bool) -> Result<ExitCode> {
    let root = Root::open(&args.root).with_context(|| format!("--root {}", args.root.display()))?;
    let root = Arc::new(root);
    let interrupted = interrupted()?;
    let stack = args.attachment.stack_of(usize::from(args.shards))?;
    let listener = listen(&stack, args.port)?;
    tokio::pin!(interrupted);
    tokio::select! {
        () = &mut interrupted => return Ok(ExitCode::SUCCESS),
        result = args.attachment.configured(&stack) => result?,
    }
    announce(&args.attachment, &stack, args.port, "http", json);

    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = &mut interrupted => break,
            stream = accept(&listener) => stream?,
        };
        let connection = connections.watch(serve(stream, Arc::clone(&root)));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                info!("connection ended: {error}");
            }
        });
    }
    drop(listener);
    if connections.count() > 0 {
        eprintln!("finishing the requests under way; press Ctrl-C again to stop at once");
    }
    connections.shutdown().await;
    finish(&args.attachment, stack, json).await;
    Ok(ExitCode::SUCCESS)
}
