//! Lines that reach everybody who is there: a wire protocol of this example's own.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use underpass::devices::{Instant, MacAddr, Selector};
use underpass::protocols::beacon::{Change, StationId};
use underpass::protocols::header::{Checksum, Header};
use underpass::protocols::{Incoming, Outbox, Peer, Protocol, Refused, SendError};
use zerocopy::network_endian::{U16, U32};

underpass::protocols::header! {
    /// Lines of a chat
    pub(crate) struct ChatHeader("l2_chat", Selector::EtherType(0x88b7)) {
        /// Behind this EtherType: who has given out the next number (IEEE 802 §9.2.4); here nobody
        owner: [u8; 3],
        /// The protocol
        protocol: U16,
        /// 1: line, 2: acknowledgement
        kind: u8,
        /// Of header, name and text
        checksum: Checksum,
        /// Of the run of the program that the line is from
        run: U32,
        /// Of the line, in this run
        number: U32,
        /// Bytes of the name that follows
        name: U16,
        /// Bytes of the text behind it; 0: somebody introduces themselves
        text: U16,
    }
}

const OWNER: [u8; 3] = [0x02, b'u', b'p'];
const PROTOCOL: u16 = 1;
const LINE: u8 = 1;
const ACKNOWLEDGEMENT: u8 = 2;

/// Longest name and longest line, in bytes.
pub(crate) const MAX_NAME: usize = 64;
pub(crate) const MAX_TEXT: usize = 1024;
/// Lines that wait to be sent, besides one greeting per station; news that wait to be shown.
const MAX_QUEUE: usize = 16;
const MAX_NEWS: usize = 64;
/// A line is sent again after this time, this often, to those who have not acknowledged it.
const RETRY: Duration = Duration::from_millis(200);
const TRIES: u32 = 25;

/// One station. It sends one line after the other, so they arrive in order.
pub(crate) struct Chat {
    name: String,
    run: u32,
    number: u32,
    queue: VecDeque<Line>,
    sending: Option<Sending>,
    /// As the beacon knows them: bounded by its table.
    others: BTreeMap<StationId, Other>,
    news: VecDeque<News>,
}

/// Something to show.
#[derive(Debug)]
pub(crate) enum News {
    Here(String),
    Said(String, String),
    Left(String),
    Unheard(String),
}

struct Line {
    text: String,
    /// `None`: for everybody.
    to: Option<StationId>,
}

struct Sending {
    line: Line,
    missing: Vec<StationId>,
    tries: u32,
    next: Instant,
}

#[derive(Default)]
struct Other {
    name: String,
    /// Run and number of the last line.
    last: Option<(u32, u32)>,
}

impl Chat {
    /// `run` is another one each time.
    pub(crate) fn new(name: String, run: u32) -> Self {
        let (queue, news) = (VecDeque::new(), VecDeque::new());
        Self { name, run, number: 0, queue, sending: None, others: BTreeMap::new(), news }
    }

    /// Sends a line to everybody who is there. False: there is no room for it now.
    pub(crate) fn say(&mut self, text: &str) -> bool {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let has_room = self.queue.len() < MAX_QUEUE + self.others.len();
        if has_room && end > 0 {
            self.queue.push_back(Line { text: text[..end].to_owned(), to: None });
        }
        has_room
    }

    /// All that was said is heard, or given up.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.sending.is_none()
    }

    pub(crate) fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// The beacon has noticed something.
    pub(crate) fn notice(&mut self, station: StationId, change: Change) {
        match change {
            Change::Up | Change::Restarted => {
                self.forget(station);
                self.others.insert(station, Other::default());
                self.queue.push_back(Line { text: String::new(), to: Some(station) });
            }
            Change::Down(_) => self.forget(station),
            Change::Changed | Change::Suspect | Change::Recovered => {}
        }
    }

    fn forget(&mut self, station: StationId) {
        if let Some(other) = self.others.remove(&station).filter(|other| other.last.is_some()) {
            self.news.push_back(News::Left(other.name));
        }
        self.queue.retain(|line| line.to != Some(station));
        if let Some(sending) = &mut self.sending {
            sending.missing.retain(|missing| *missing != station);
        }
    }

    fn on_line(
        &mut self,
        from: StationId,
        run: u32,
        number: u32,
        name: &[u8],
        text: &[u8],
    ) -> Result<(), Refused> {
        // Who is not known yet, or finds no room, sends it again.
        let other = self.others.get_mut(&from).ok_or(Refused)?;
        let is_repeated = other.last.is_some_and(|(last_run, last)| {
            last_run == run && number.wrapping_sub(last).cast_signed() <= 0
        });
        if is_repeated {
            return Ok(());
        }
        if self.news.len() >= MAX_NEWS {
            return Err(Refused);
        }
        let name = printable(name);
        if other.last.is_none() {
            self.news.push_back(News::Here(name.clone()));
        }
        *other = Other { name: name.clone(), last: Some((run, number)) };
        if !text.is_empty() {
            self.news.push_back(News::Said(name, printable(text)));
        }
        Ok(())
    }

    fn send_line(&self, text: &str, to: Peer, out: &mut Outbox<'_>) -> Result<(), SendError> {
        let (name, text) = (self.name.as_bytes(), text.as_bytes());
        let line = ChatHeader {
            name: (name.len() as u16).into(),
            text: (text.len() as u16).into(),
            ..header_of(LINE, self.run, self.number)
        };
        out.send(to, ChatHeader::LEN + name.len() + text.len(), |frame| {
            let (into_name, into_text) = frame[ChatHeader::LEN..].split_at_mut(name.len());
            into_name.copy_from_slice(name);
            into_text.copy_from_slice(text);
            // There is room for the header.
            let _ = line.emit(frame);
        })
    }

    /// Sends the line to everybody the first time, and then to each one who has not acknowledged it.
    fn send(&self, sending: &Sending, out: &mut Outbox<'_>) {
        // What is not sent now is sent with the next try.
        if sending.line.to.is_none() && sending.tries == 0 {
            let everybody = Peer::Station { interface: 0, address: MacAddr::BROADCAST };
            let _ = self.send_line(&sending.line.text, everybody, out);
            return;
        }
        for station in &sending.missing {
            let _ = self.send_line(&sending.line.text, (*station).into(), out);
        }
    }

    fn give_up(&mut self, missing: &[StationId]) {
        for station in missing {
            if let Some(other) = self.others.get(station).filter(|_| self.news.len() < MAX_NEWS) {
                let who =
                    if other.name.is_empty() { station.to_string() } else { other.name.clone() };
                self.news.push_back(News::Unheard(who));
            }
        }
    }
}

impl Protocol for Chat {
    fn on_frame(
        &mut self,
        _: Instant,
        frame: &Incoming<'_>,
        out: &mut Outbox<'_>,
    ) -> Result<(), Refused> {
        let (header, rest) = ChatHeader::parse(frame.payload)?;
        let Peer::Station { interface, address } = frame.from else { return Err(Refused) };
        let from = StationId { interface, address };
        if (header.owner, header.protocol.get()) != (OWNER, PROTOCOL) {
            return Err(Refused);
        }
        let (run, number) = (header.run.get(), header.number.get());
        match header.kind {
            LINE => {
                let (name, rest) =
                    rest.split_at_checked(header.name.get().into()).ok_or(Refused)?;
                let text = rest.get(..header.text.get().into()).ok_or(Refused)?;
                self.on_line(from, run, number, name, text)?;
                let heard = header_of(ACKNOWLEDGEMENT, run, number);
                // A lost one is asked for by sending the line again.
                let _ = out.send(frame.from, ChatHeader::LEN, |frame| heard.emit(frame));
            }
            ACKNOWLEDGEMENT if (run, number) == (self.run, self.number) => {
                let sending = self.sending.as_mut().ok_or(Refused)?;
                sending.missing.retain(|missing| *missing != from);
            }
            _ => return Err(Refused),
        }
        out.notify();
        Ok(())
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Outbox<'_>) {
        loop {
            if let Some(mut sending) = self.sending.take() {
                if sending.tries == TRIES {
                    self.give_up(&sending.missing);
                } else if !sending.missing.is_empty() {
                    if sending.next <= now {
                        self.send(&sending, out);
                        sending.tries += 1;
                        sending.next = now + RETRY;
                    }
                    self.sending = Some(sending);
                    return;
                }
                out.notify();
            }
            let Some(line) = self.queue.pop_front() else { return };
            let missing = match line.to {
                Some(station) => vec![station],
                None => self.others.keys().copied().collect(),
            };
            self.number = self.number.wrapping_add(1);
            self.sending = Some(Sending { line, missing, tries: 0, next: now });
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.sending.as_ref().map(|sending| sending.next)
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(who) => write!(f, "* {who} is here"),
            Self::Said(who, text) => write!(f, "{who}: {text}"),
            Self::Left(who) => write!(f, "* {who} has left"),
            Self::Unheard(who) => write!(f, "* {who} has not heard that"),
        }
    }
}

fn header_of(kind: u8, run: u32, number: u32) -> ChatHeader {
    ChatHeader {
        owner: OWNER,
        protocol: PROTOCOL.into(),
        kind,
        checksum: Checksum::default(),
        run: run.into(),
        number: number.into(),
        name: 0.into(),
        text: 0.into(),
    }
}

/// Text without what would move the cursor of a terminal.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect()
}
