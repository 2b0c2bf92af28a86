//! A wire protocol of one's own: who is on this link? Stations tell their names when they are asked. It
//! runs on bare Ethernet, beside IP, and on another device by changing one argument.
//!
//! ```console
//! # custom_protocol --device packet:eth1 --addr 10.7.0.2/24 --name ada
//! # custom_protocol --device tap:tap0 --addr 10.7.0.3/24 --name bob --ask
//! # custom_protocol --device memory: --addr 10.7.0.2/24 --name bob --ask
//! ```

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use underpass::Stack;
use underpass::devices::{Instant, MacAddr, Selector};
use underpass::protocols::header::{Checksum, Header};
use underpass::protocols::{Incoming, Outbox, Peer, Protocol, Refused, SendError};
use underpass_examples::Attachment;

underpass::protocols::header! {
    /// Names of the stations on a link
    struct NameHeader("name", Selector::EtherType(0x88b6)) {
        /// 1: question, 2: answer
        kind: u8,
        /// Bytes of the name that follows; short frames are padded
        len: u8,
        /// Of header and name
        checksum: Checksum,
    }
}

const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const MAX_HEARD: usize = 100;

/// One station.
struct Names {
    name: String,
    next_question: Option<Instant>,
    heard: VecDeque<(Peer, String)>,
}

impl Names {
    fn send(&self, kind: u8, to: Peer, out: &mut Outbox<'_>) -> Result<(), SendError> {
        let len = self.name.len() as u8;
        out.send(to, NameHeader::LEN + self.name.len(), |frame| {
            frame[NameHeader::LEN..].copy_from_slice(self.name.as_bytes());
            // There is room for the header.
            let _ = NameHeader { kind, len, checksum: Checksum::default() }.emit(frame);
        })
    }
}

impl Protocol for Names {
    fn on_frame(
        &mut self,
        _: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused> {
        let (header, name) = NameHeader::parse(frame.payload)?;
        let name = name.get(..header.len.into()).ok_or(Refused)?;
        match header.kind {
            // An answer that finds no room is lost, as it may be on the link: the other asks again.
            QUESTION => self.send(ANSWER, frame.from, out).map_err(|_| Refused),
            ANSWER if self.heard.len() < MAX_HEARD => {
                self.heard.push_back((frame.from, String::from_utf8_lossy(name).into_owned()));
                out.notify();
                Ok(())
            }
            _ => Err(Refused),
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Outbox<'_>) {
        let everybody = Peer::Station { interface: 0, address: MacAddr::BROADCAST };
        if self.next_question.is_some_and(|at| at <= now) {
            // A lost question is asked again.
            let _ = self.send(QUESTION, everybody, out);
            self.next_question = Some(now + Duration::from_secs(1));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_question
    }
}

/// Tells and asks names on a link
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Name of this station, of up to 255 bytes
    #[arg(long, value_parser = name)]
    name: String,
    /// Ask for the name of another station, and end with the first answer
    #[arg(long)]
    ask: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (stack, peer) = args.attachment.stacks()?;
    let station = |name, asks: bool| {
        let next_question = asks.then_some(Instant::ZERO);
        Names { name, next_question, heard: VecDeque::new() }
    };
    let attach = |stack: Stack| stack.attach(NameHeader::SELECTOR, station("memory".into(), false));
    let _peer = peer.map(attach).transpose()?;
    let names = stack.attach(NameHeader::SELECTOR, station(args.name, args.ask))?;
    if !args.ask {
        println!("listening on EtherType 0x88b6");
    }
    let (from, name) = names.wait(|names| names.heard.pop_front())?;
    println!("{from} is {name}");
    Ok(())
}

fn name(text: &str) -> Result<String, &'static str> {
    if text.len() <= 255 { Ok(text.to_owned()) } else { Err("a name has at most 255 bytes") }
}
