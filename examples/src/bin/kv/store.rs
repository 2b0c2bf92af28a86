use std::collections::HashMap;

use hyper::StatusCode;
use hyper::body::Bytes;

/// One shard's part of the keys, and what the shard has done.
#[derive(Default)]
pub(super) struct Store {
    values: HashMap<String, Bytes>,
    pub(super) connections: u64,
    pub(super) requests: u64,
    /// Requests for keys of other shards.
    pub(super) submitted: u64,
}

/// What is done to a key.
pub(super) enum Command {
    Get,
    Put(Bytes),
    Delete,
}

/// Status and body of a response.
pub(super) type Answer = (StatusCode, Bytes);

impl Store {
    /// Does what a request asks for. The store takes new keys up to `most`.
    pub(super) fn execute(&mut self, key: String, command: Command, most: usize) -> Answer {
        let is_new = !self.values.contains_key(&key);
        match command {
            Command::Get => match self.values.get(&key) {
                Some(value) => (StatusCode::OK, value.clone()),
                None => text(StatusCode::NOT_FOUND, "no such key\n"),
            },
            Command::Put(_) if is_new && self.values.len() >= most => {
                text(StatusCode::INSUFFICIENT_STORAGE, "the key's shard is full\n")
            }
            Command::Put(value) => {
                self.values.insert(key, value);
                text(if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }, "")
            }
            Command::Delete => match self.values.remove(&key) {
                Some(_) => text(StatusCode::NO_CONTENT, ""),
                None => text(StatusCode::NOT_FOUND, "no such key\n"),
            },
        }
    }

    /// What the shard has done, in words.
    pub(super) fn report(&self) -> String {
        let Self { values, connections, requests, submitted } = self;
        let keys = values.len();
        format!(
            "{connections} connections, {requests} requests, {submitted} of them submitted to \
             another shard, {keys} keys"
        )
    }
}

/// An answer that is the same every time.
pub(super) fn text(status: StatusCode, text: &'static str) -> Answer {
    (status, Bytes::from_static(text.as_bytes()))
}
