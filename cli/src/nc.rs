//! `underpass nc`, which behaves as OpenBSD's netcat with `-N`.

use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt, stdin, stdout};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;
use underpass::{Stack, TcpListener, TcpStream, UdpSocket};

use crate::attach::Attachment;
use crate::host;
use crate::interrupt::interrupted;
use crate::server::{drain, stop};

/// Read at once; also the largest datagram that is made of standard input, as in netcat.
const CHUNK: usize = 16 * 1024;
/// The largest datagram there is.
const MAX_DATAGRAM: usize = 65_535;

/// Arguments of `nc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to connect to: name or address, and port. With -l: where to listen, the port alone or
    /// an address of this stack and the port
    #[arg(value_names = ["HOST", "PORT"], num_args = 1..=2, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    attachment: Attachment,
    /// Wait for one connection instead of making it
    #[arg(short, long)]
    listen: bool,
    /// UDP datagrams instead of a TCP connection
    #[arg(short, long)]
    udp: bool,
    /// Give up connecting, and end when nothing has come or gone, after this many seconds
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
}

/// Sends standard input and prints what comes. At the end of input, tells the peer so and goes on
/// printing until the peer has ended too.
pub(crate) async fn run(args: &Args) -> Result<ExitCode> {
    let (host, port) = args.place()?;
    if let Some(host) = host.filter(|_| !args.listen) {
        args.attachment.check_host(host)?;
    }
    let interrupted = interrupted()?;
    let stack = args.attachment.stack()?;
    let result = tokio::select! {
        result = session(args, &stack, host, port) => result.map(|()| ExitCode::SUCCESS),
        () = interrupted => Ok(ExitCode::from(130)),
    };
    if matches!(result, Ok(code) if code == ExitCode::SUCCESS) {
        drain(&stack).await;
    }
    stop(stack).await;
    result
}

impl Args {
    /// Host and port; only a listener may have no host.
    fn place(&self) -> Result<(Option<&str>, u16)> {
        let (host, port) = match self.words.as_slice() {
            [port] => (None, port),
            [host, port] => (Some(host.as_str()), port),
            _ => bail!("give HOST and PORT"),
        };
        if host.is_none() && !self.listen {
            bail!("give a PORT behind the HOST, or -l to listen at a port");
        }
        match port.parse() {
            Ok(port @ 1..) => Ok((host, port)),
            _ => bail!("'{port}' is not a port: a number from 1 to 65535"),
        }
    }

    fn patience(&self) -> Option<Duration> {
        self.timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

async fn session(args: &Args, stack: &Stack, host: Option<&str>, port: u16) -> Result<()> {
    let activity = Activity::new(args.patience());
    if args.listen {
        let ip: IpAddr = match host {
            None => Ipv6Addr::UNSPECIFIED.into(),
            Some(host) => host.parse().with_context(|| {
                format!("'{host}': where to listen has to be given by its IP address")
            })?,
        };
        let local = SocketAddr::new(ip, port);
        if args.udp {
            return answer_datagrams(stack, local, &activity).await;
        }
        let stream = accept(stack, local).await?;
        return activity.limit(serve(&stream, &activity)).await;
    }
    let host = host.context("no host to connect to")?;
    if args.udp {
        let peer = within(args, host::address(stack, host)).await?;
        return exchange_datagrams(stack, SocketAddr::new(peer, port), &activity).await;
    }
    let stream = within(args, host::connect(stack, host, port)).await?;
    info!("connected to {}", stream.peer_addr());
    activity.touch();
    // Either direction may end first, and the other one goes on.
    let relay = async {
        let ended = tokio::try_join!(send(stream.clone(), &activity), receive(&stream, &activity));
        ended.map(|_| ())
    };
    activity.limit(relay).await
}

/// The first connection; further ones are refused.
async fn accept(stack: &Stack, local: SocketAddr) -> Result<TcpStream> {
    let listener = TcpListener::bind_with_backlog(stack, local, 1)
        .with_context(|| format!("listening on port {}", local.port()))?;
    info!("listening on TCP port {}", local.port());
    let (stream, peer) = listener.accept_async().await.context("accepting a connection")?;
    info!("connection from {peer}");
    Ok(stream)
}

/// A listener has no more to do once the peer has ended.
async fn serve(stream: &TcpStream, activity: &Activity) -> Result<()> {
    activity.touch();
    let sending = async {
        send(stream.clone(), activity).await?;
        std::future::pending().await
    };
    tokio::select! {
        // What has been read from standard input is on its way when the peer's end is looked at.
        biased;
        result = sending => result,
        result = receive(stream, activity) => result,
    }
}

/// Standard input to the connection, and its end.
async fn send(mut stream: TcpStream, activity: &Activity) -> Result<()> {
    let mut input = stdin();
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = input.read(&mut chunk).await.context("reading standard input")?;
        activity.touch();
        let Some(bytes @ [_, ..]) = chunk.get(..len) else {
            return stream.shutdown(Shutdown::Write).context("ending the connection");
        };
        stream.write_all(bytes).await.context("sending")?;
        activity.touch();
    }
}

/// The connection to standard output, until the peer has ended.
async fn receive(stream: &TcpStream, activity: &Activity) -> Result<()> {
    let mut stream = stream.clone();
    let mut output = stdout();
    let mut chunk = vec![0; CHUNK];
    loop {
        let len = stream.read(&mut chunk).await.context("receiving")?;
        activity.touch();
        let Some(bytes @ [_, ..]) = chunk.get(..len) else {
            return Ok(());
        };
        print(&mut output, bytes).await?;
    }
}

/// Waits for the first datagram, and talks to its sender from then on.
async fn answer_datagrams(stack: &Stack, local: SocketAddr, activity: &Activity) -> Result<()> {
    let socket = UdpSocket::bind(stack, local)
        .with_context(|| format!("binding UDP port {}", local.port()))?;
    info!("listening on UDP port {}", local.port());
    let mut datagram = vec![0; MAX_DATAGRAM];
    let (len, peer) = socket.recv_from_async(&mut datagram).await.context("receiving")?;
    print(&mut stdout(), datagram.get(..len).unwrap_or_default()).await?;
    activity.touch();
    relay_datagrams(&socket, peer, activity).await
}

async fn exchange_datagrams(stack: &Stack, peer: SocketAddr, activity: &Activity) -> Result<()> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    };
    let socket = UdpSocket::bind(stack, any).context("opening a UDP socket")?;
    activity.touch();
    relay_datagrams(&socket, peer, activity).await
}

/// Datagrams have no end: this goes on until SIGINT or the time limit.
async fn relay_datagrams(socket: &UdpSocket, peer: SocketAddr, activity: &Activity) -> Result<()> {
    let sending = async {
        let mut input = stdin();
        let mut chunk = vec![0; CHUNK];
        loop {
            let len = input.read(&mut chunk).await.context("reading standard input")?;
            let Some(bytes @ [_, ..]) = chunk.get(..len) else {
                return std::future::pending().await;
            };
            socket
                .send_to_async(bytes, peer)
                .await
                .with_context(|| format!("sending to {peer}"))?;
            activity.touch();
        }
    };
    let receiving = async {
        let mut output = stdout();
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            let (len, from) = socket.recv_from_async(&mut datagram).await.context("receiving")?;
            if from == peer {
                print(&mut output, datagram.get(..len).unwrap_or_default()).await?;
                activity.touch();
            }
        }
    };
    activity
        .limit(async {
            tokio::select! {
                result = sending => result,
                result = receiving => result,
            }
        })
        .await
}

async fn print(output: &mut tokio::io::Stdout, bytes: &[u8]) -> Result<()> {
    output.write_all(bytes).await.context("writing to standard output")?;
    output.flush().await.context("writing to standard output")
}

/// Awaits `work` for as long as `-w` says.
async fn within<T>(args: &Args, work: impl Future<Output = Result<T>>) -> Result<T> {
    match args.patience() {
        None => work.await,
        Some(patience) => match timeout(patience, work).await {
            Ok(result) => result,
            Err(_) => bail!("no connection within {} s", patience.as_secs()),
        },
    }
}

/// When anything last came or went, and how long there may be nothing.
struct Activity {
    last: Cell<Instant>,
    patience: Option<Duration>,
}

impl Activity {
    fn new(patience: Option<Duration>) -> Self {
        Self { last: Cell::new(Instant::now()), patience }
    }

    fn touch(&self) {
        self.last.set(Instant::now());
    }

    /// Awaits `work`, or a time without activity, which is no error (as in netcat).
    async fn limit(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let quiet = async {
            let Some(patience) = self.patience else {
                return std::future::pending().await;
            };
            while self.last.get() + patience > Instant::now() {
                sleep_until(self.last.get() + patience).await;
            }
        };
        tokio::select! {
            result = work => result,
            () = quiet => Ok(()),
        }
    }
}
