//! People on one Ethernet segment chat without any address or server: the protocol `beacon` knows who is
//! there, and a protocol of our own carries the lines. What is typed goes to everybody who is there; the
//! end of the input, or Ctrl-C, says goodbye.
//!
//! ```console
//! # l2_chat --device packet:eth1 --addr 10.7.0.2/24 --name ada
//! # l2_chat --device tap:tap0 --addr 10.7.0.3/24 --name bob
//! # l2_chat --device memory: --addr 10.7.0.2/24 --name ada
//! ```
//!
//! With `memory:` there is an echo at the other end of the link.

#![forbid(unsafe_code)]

mod chat;

use std::future::pending;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use chat::{Chat, ChatHeader, MAX_NAME, News};
use clap::Parser;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use tokio::time::timeout;
use underpass::protocols::beacon::{Announcement, Beacon, BeaconConfig, BeaconHeader};
use underpass::protocols::header::Header;
use underpass::{ProtocolHandle, Stack};
use underpass_examples::{Attachment, interrupted};

/// Chat on an Ethernet segment
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Name to be known by, of up to 64 bytes
    #[arg(long, value_parser = name)]
    name: String,
}

/// A station with its two protocols.
struct Station {
    beacon: ProtocolHandle<Beacon>,
    chat: ProtocolHandle<Chat>,
}

impl Station {
    /// `incarnation` is greater each time.
    fn new(stack: &Stack, name: String, incarnation: u64) -> Result<Self> {
        let addresses: Vec<IpAddr> =
            stack.addresses().iter().map(|address| address.net.addr()).collect();
        let said = Announcement { shards: stack.shards() as u16, addresses, ..Default::default() };
        let chat = Chat::new(name, (incarnation >> 20) as u32);
        let chat = stack.attach(ChatHeader::SELECTOR, chat)?;
        let beacon = Beacon::new(BeaconConfig::new(incarnation), said)?;
        Ok(Self { beacon: stack.attach(BeaconHeader::SELECTOR, beacon)?, chat })
    }

    /// Goes on until the input ends and was heard; `show` may have something to say.
    async fn run(
        &self,
        mut input: Option<Lines<BufReader<Stdin>>>,
        mut show: impl FnMut(News) -> Option<String>,
    ) -> Result<()> {
        let (mut line, mut is_open) = (None, true);
        loop {
            tokio::select! {
                event = self.beacon.wait_async(Beacon::event) => {
                    let event = event?;
                    self.chat.with(|chat| chat.notice(event.station, event.change));
                }
                news = self.chat.wait_async(Chat::news) => {
                    if let Some(answer) = show(news?) {
                        self.chat.with(|chat| chat.say(&answer));
                    }
                }
                read = next(&mut input), if line.is_none() && is_open => {
                    line = read?;
                    is_open = line.is_some();
                }
                said = self.chat.wait_async(|chat| {
                    chat.say(line.as_deref().unwrap_or_default()).then_some(())
                }), if line.is_some() => {
                    said?;
                    line = None;
                }
                heard = self.chat.wait_async(|chat| chat.is_idle().then_some(())), if !is_open => {
                    return Ok(heard?);
                }
            }
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let result = runtime.block_on(chat(args));
    // A thread may wait for the next line of the input: nobody waits for the thread.
    runtime.shutdown_background();
    result
}

async fn chat(args: Args) -> Result<()> {
    let stop = interrupted()?;
    let (stack, peer) = args.attachment.stacks()?;
    let incarnation = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let station = Station::new(&stack, args.name, incarnation)?;
    let echo = peer.map(|peer| Station::new(&peer, "echo".into(), incarnation + 1)).transpose()?;
    println!("listening on EtherType 0x88b7");
    let echo = async {
        let Some(echo) = &echo else { return pending().await };
        let answer = |news| if let News::Said(_, text) = news { Some(text) } else { None };
        echo.run(None, answer).await
    };
    let show = |news| {
        println!("{news}");
        None
    };
    tokio::select! {
        () = stop => {}
        result = station.run(Some(BufReader::new(stdin()).lines()), show) => result?,
        result = echo => result?,
    }
    station.beacon.with(Beacon::leave);
    let left = station.beacon.wait_async(|beacon| beacon.has_left().then_some(()));
    // Where nothing can be sent, the others notice by themselves.
    let _ = timeout(Duration::from_secs(1), left).await;
    Ok(())
}

/// The next line that is typed; nobody types at the echo.
async fn next(input: &mut Option<Lines<BufReader<Stdin>>>) -> Result<Option<String>> {
    match input {
        Some(input) => Ok(input.next_line().await?),
        None => pending().await,
    }
}

fn name(text: &str) -> Result<String, &'static str> {
    let fits = (1..=MAX_NAME).contains(&text.len());
    if fits { Ok(text.to_owned()) } else { Err("a name has from 1 to 64 bytes") }
}
