//! What all servers do: listen on every address of the stack, tell so, and end with its statistics.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::{Instant, sleep};
use underpass::devices::RuleReport;
use underpass::{Origin, Stack, Stats, TcpListener, TcpStream};

use crate::attach::Attachment;
use crate::rules::Given;

/// Connections that are closing have ended, or are given up, when nothing has moved for this long.
const QUIET: Duration = Duration::from_secs(2);

/// Listens on `port` of all addresses of `stack`.
pub(crate) fn listen(stack: &Stack, port: u16) -> Result<TcpListener> {
    let addr = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    TcpListener::bind(stack, addr).with_context(|| format!("listening on port {port}"))
}

/// The next connection.
///
/// # Errors
/// The stack has stopped, as when its device is gone.
pub(crate) async fn accept(listener: &TcpListener) -> Result<TcpStream> {
    loop {
        match listener.accept_async().await {
            Ok((stream, _)) => {
                // Answers are written whole.
                stream.set_nodelay(true);
                return Ok(stream);
            }
            // The peer gave up while it was waiting.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error).context("accepting connections"),
        }
    }
}

/// Tells, on one line, that a server is up.
pub(crate) fn announce(
    attachment: &Attachment,
    stack: &Stack,
    port: u16,
    scheme: &str,
    json: bool,
) {
    let url = |ip: IpAddr| match (scheme, port, ip) {
        ("http", 80, IpAddr::V6(ip)) => format!("http://[{ip}]/"),
        ("http", 80, IpAddr::V4(ip)) => format!("http://{ip}/"),
        _ => format!("{scheme}://{}/", SocketAddr::new(ip, port)),
    };
    let urls: Vec<String> = stack
        .addresses()
        .iter()
        .filter(|address| address.origin != Origin::LinkLocal)
        .map(|address| url(address.net.addr()))
        .collect();
    let device = attachment.device.to_string();
    if json {
        println!("{}", json!({ "event": "listening", "urls": urls, "device": device }));
    } else {
        println!("listening on {} ({device})", urls.join(" and "));
    }
}

/// Waits until what was written has arrived, stops `stack`, and prints what it has done.
pub(crate) async fn finish(attachment: &Attachment, stack: Stack, json: bool) {
    drain(&stack).await;
    let (stats, shards) = (stack.stats(), stack.shard_stats());
    let rules = attachment.rules();
    stop(stack).await;
    if json {
        let shards: Vec<_> = shards.iter().map(to_json).collect();
        let stats = to_json(&stats);
        let event = json!({ "event": "stopped", "stats": stats, "shards": shards, "rules": rules });
        println!("{event}");
        return;
    }
    println!("{stats}");
    if shards.len() > 1 {
        for (n, shard) in shards.iter().enumerate() {
            let Stats { tcp_passive_opens, handed_over, .. } = shard;
            println!("shard {n}: {tcp_passive_opens} accepted, {handed_over} frames handed over");
        }
    }
    for RuleReport { rule, counts } in rules {
        let kept = counts.redirect.packets + counts.pass.packets;
        let dropped = counts.drop.packets;
        println!("{}: {kept} packets kept, {dropped} dropped", Given(rule));
    }
}

/// Gives up the last handle of a stack off this thread, for that waits for the stack's.
pub(crate) async fn stop(stack: Stack) {
    // The task cannot fail: it does nothing else.
    let _ = tokio::task::spawn_blocking(move || drop(stack)).await;
}

/// Waits until all connections are closed, or nothing moves any more.
pub(crate) async fn drain(stack: &Stack) {
    let mut moved = (0, 0);
    let mut last = Instant::now();
    loop {
        let stats = stack.stats();
        if stats.tcp_flows == 0 || last.elapsed() >= QUIET {
            return;
        }
        let now = (stats.rx_frames, stats.tx_frames);
        if now != moved {
            (moved, last) = (now, Instant::now());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn to_json(stats: &Stats) -> serde_json::Value {
    let drops: serde_json::Map<_, _> = stats
        .drops
        .iter()
        .map(|(reason, count)| (reason.name().to_owned(), count.into()))
        .collect();
    json!({
        "rx_frames": stats.rx_frames,
        "rx_bytes": stats.device.rx_bytes,
        "tx_frames": stats.tx_frames,
        "tx_bytes": stats.device.tx_bytes,
        "handed_over": stats.handed_over,
        "tcp_passive_opens": stats.tcp_passive_opens,
        "tcp_active_opens": stats.tcp_active_opens,
        "tcp_failures": stats.tcp_failures,
        "drops": drops,
    })
}
