//! One side serves, the other asks.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::sockets::Sockets;
use super::{FILE_LEN, Sample};
use crate::echo::echo;
use crate::fetch::{Download, Url};
use crate::files::{Root, serve};
use crate::http_get::progress;

const HTTP: u16 = 80;
const ECHO: u16 = 7;

/// Transfers of which the median counts.
const TRANSFERS: usize = 3;
/// Bytes of one ping-pong message.
const MESSAGE: usize = 64;
const WARM_UP: usize = 500;
const ROUNDS: usize = 5_000;
/// Nothing here takes this long unless something is broken.
const LIMIT: Duration = Duration::from_secs(20);

/// A web server and an echo server on a thread of their own.
pub(super) struct Host {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Host {
    /// Starts both at `ip`, and returns once they listen.
    pub(super) fn start(sockets: impl Sockets, ip: IpAddr, root: Arc<Root>) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            block_on(async move {
                let listen = |port| {
                    let addr = SocketAddr::new(ip, port);
                    sockets.listen(addr).with_context(|| format!("listening on {addr}"))
                };
                let (http, pong) = (listen(HTTP)?, listen(ECHO)?);
                let _ = ready.send(());
                tokio::select! {
                    result = serve_all(&sockets, &http, &pong, &root) => result,
                    _ = stopped => Ok(()),
                }
            })
        });
        if is_ready.recv().is_err() {
            join(thread)?;
            bail!("the server ended by itself");
        }
        Ok(Self { stop, thread })
    }

    /// Ends both servers.
    ///
    /// # Errors
    /// What ended them before.
    pub(super) fn stop(self) -> Result<()> {
        // It fails if the thread is gone already, and why will be told by the thread.
        let _ = self.stop.send(());
        join(self.thread)
    }
}

/// Downloads the sample several times from `ip` and checks each copy. Returns the median rate in
/// bit/s.
pub(super) fn download(
    sockets: &impl Sockets,
    ip: IpAddr,
    sample: &Sample,
    message: &str,
) -> Result<f64> {
    let server = (ip, HTTP).into();
    let url = Url::new(server, &format!("/{}", Sample::NAME));
    let bar = progress(Some((FILE_LEN * TRANSFERS) as u64)).with_message(message.to_owned());
    let mut rates = Vec::with_capacity(TRANSFERS);
    for _ in 0..TRANSFERS {
        let mut received = Vec::with_capacity(FILE_LEN);
        let seconds = block_on(limited(async {
            let start = Instant::now();
            let stream = sockets.connect(server).await?;
            let mut download = Download::start(stream, &url).await?;
            while let Some(data) = download.next().await? {
                bar.inc(data.len() as u64);
                received.extend_from_slice(&data);
            }
            Ok(start.elapsed().as_secs_f64())
        }))?;
        if Sha256::digest(&received)[..] != sample.sha256 {
            bail!("the bytes that arrived are not those that were sent");
        }
        rates.push(FILE_LEN as f64 * 8.0 / seconds);
    }
    bar.finish_and_clear();
    rates.sort_by(f64::total_cmp);
    rates.get(TRANSFERS / 2).copied().context("no transfer")
}

/// Sends small messages back and forth with the echo server at `ip`. Returns the times of the
/// rounds in nanoseconds.
pub(super) fn round_trips(sockets: &impl Sockets, ip: IpAddr) -> Result<Histogram<u64>> {
    block_on(limited(async {
        let mut stream = sockets.connect((ip, ECHO).into()).await?;
        let mut times = Histogram::new(3)?;
        let mut answer = [0; MESSAGE];
        for round in 0..WARM_UP + ROUNDS {
            let message = [round as u8; MESSAGE];
            let start = Instant::now();
            stream.write_all(&message).await?;
            stream.flush().await?;
            stream.read_exact(&mut answer).await?;
            let time = start.elapsed();
            if answer != message {
                bail!("the echo differs from what was sent");
            }
            if round >= WARM_UP {
                times.record(time.as_nanos() as u64)?;
            }
        }
        Ok(times)
    }))
}

async fn serve_all<S: Sockets>(
    _sockets: &S,
    http: &S::Listener,
    pong: &S::Listener,
    root: &Arc<Root>,
) -> Result<()> {
    // A connection that fails is reported by the side that asked.
    loop {
        tokio::select! {
            stream = S::accept(http) => drop(tokio::spawn(serve(stream?, Arc::clone(root)))),
            stream = S::accept(pong) => drop(tokio::spawn(echo(stream?))),
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

async fn limited<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(result) => result,
        Err(_) => bail!("not done after {} s", LIMIT.as_secs()),
    }
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("the server panicked"))?
}
