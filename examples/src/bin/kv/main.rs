//! A key-value store over HTTP that shares nothing: every shard keeps its part of the keys, on the
//! thread that also polls its queue of the device and runs its connections. A request that arrives on
//! another shard is submitted to the owner of the key. No lock, and no runtime besides the stack's.
//!
//! ```console
//! # kv --device tap:tap0,host=10.7.0.1/24 --addr 10.7.0.2/24 --shards 2
//! $ curl -T file http://10.7.0.2/key
//! $ curl http://10.7.0.2/key
//! $ curl -X DELETE http://10.7.0.2/key
//! ```

#![forbid(unsafe_code)]

mod store;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::pin;

use anyhow::{Context, Result};
use clap::Parser;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use store::{Answer, Command, Store, text};
use underpass::{Local, TcpListener, run_per_core};
use underpass_examples::{Attachment, interrupted};

/// Longest key and longest value, in bytes.
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 64 * 1024;

/// A key-value store: GET, PUT and DELETE of /KEY
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Queues of the device, each with a thread and a part of the keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    shards: u8,
    /// Keys that a shard takes, of up to 64 KiB each
    #[arg(long, default_value_t = 16_384)]
    keys: usize,
    /// TCP port
    #[arg(long, default_value_t = 80)]
    port: u16,
}

/// What all shards know; it does not change.
#[derive(Clone)]
struct Config {
    /// Tells the owner of a key. It is random, so that nobody can choose keys of one shard.
    hash: RandomState,
    keys: usize,
}

thread_local! {
    static STORE: RefCell<Store> = RefCell::default();
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (stack, shards) = args.attachment.shards(usize::from(args.shards))?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port));
    let listener = TcpListener::bind(&stack, address)?;
    let interrupted = interrupted()?;
    let config = Config { hash: RandomState::new(), keys: args.keys };
    println!("listening on port {}", args.port);

    let reports = run_per_core(&stack, shards, |local| async {
        let listener = listener.on_shard(local.shard()).context("a shard without a listener")?;
        serve(local, listener, &config, interrupted.clone()).await?;
        Ok::<_, anyhow::Error>(STORE.with_borrow(Store::report))
    })?;
    for (shard, report) in reports.into_iter().enumerate() {
        println!("shard {shard}: {}", report?);
    }
    Ok(())
}

/// Accepts the connections of one shard until it is `interrupted`.
async fn serve(
    local: Local,
    listener: TcpListener,
    config: &Config,
    mut interrupted: impl Future<Output = ()> + Unpin,
) -> Result<()> {
    loop {
        let accept = pin!(listener.accept_async());
        let Either::Left((accepted, _)) = select(accept, &mut interrupted).await else {
            return Ok(());
        };
        let (stream, _) = accepted?;
        stream.set_nodelay(true);
        STORE.with_borrow_mut(|store| store.connections += 1);
        let (here, config) = (local.clone(), config.clone());
        let service = service_fn(move |request| respond(here.clone(), config.clone(), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // An error is a client that went away, or did not speak HTTP and was told so.
        local.spawn(connection).detach();
    }
}

async fn respond(
    local: Local,
    config: Config,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = answer(&local, &config, request).await.unwrap_or_else(|refusal| refusal);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, PUT, DELETE");
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    Ok(response)
}

/// Has the owner of the key do what is asked for. An error is a request refused here.
async fn answer(
    local: &Local,
    config: &Config,
    request: Request<Incoming>,
) -> Result<Answer, Answer> {
    let key = request.uri().path().strip_prefix('/').unwrap_or_default().to_owned();
    if key.is_empty() {
        return Err(text(StatusCode::BAD_REQUEST, "the path is the key: /KEY\n"));
    }
    if key.len() > MAX_KEY {
        return Err(text(StatusCode::URI_TOO_LONG, "a key has at most 256 bytes\n"));
    }
    let command = match *request.method() {
        Method::GET => Command::Get,
        Method::PUT => Command::Put(value(request.into_body()).await?),
        Method::DELETE => Command::Delete,
        _ => return Err(text(StatusCode::METHOD_NOT_ALLOWED, "GET, PUT or DELETE\n")),
    };
    let owner = (config.hash.hash_one(&key) % local.shards() as u64) as usize;
    STORE.with_borrow_mut(|store| {
        store.requests += 1;
        store.submitted += u64::from(owner != local.shard());
    });
    let most = config.keys;
    let there = async move |_| STORE.with_borrow_mut(|store| store.execute(key, command, most));
    let answer = local.submit_to(owner, there).await;
    answer.map_err(|_| text(StatusCode::SERVICE_UNAVAILABLE, "the key's shard is ending\n"))
}

/// The body of a request.
async fn value(body: Incoming) -> Result<Bytes, Answer> {
    let too_long = || text(StatusCode::PAYLOAD_TOO_LARGE, "a value has at most 64 KiB\n");
    // Before the client is told to go on and send it.
    if body.size_hint().lower() > MAX_VALUE as u64 {
        return Err(too_long());
    }
    match Limited::new(body, MAX_VALUE).collect().await {
        // Copied: these bytes lie in the connection's buffer, and would keep all of it.
        Ok(value) => Ok(Bytes::copy_from_slice(&value.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(too_long()),
        Err(_) => Err(text(StatusCode::BAD_REQUEST, "the value did not arrive\n")),
    }
}
