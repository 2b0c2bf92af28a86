//! Answers remembered for as long as they say.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use underpass_devices::Instant;

use super::message::{Question, Record};

/// What is known of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Aliases, then what was asked for.
    Records(Vec<Record>),
    /// There is no such name.
    NoName,
    /// The name has no such record.
    NoRecord,
}

/// A bounded cache. When it is full, what would expire first goes first.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: HashMap<Question, Entry>,
    /// The same, by the time at which they expire.
    expiry: BTreeSet<(Instant, Question)>,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    server: SocketAddr,
    stored: Instant,
    expires: Instant,
}

impl Cache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), expiry: BTreeSet::new(), limit }
    }

    /// What is known at `now`, with the times to live that are left, and who said it.
    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<(Known, SocketAddr)> {
        let entry = self.entries.get(question).filter(|entry| now < entry.expires)?;
        let mut known = entry.known.clone();
        if let Known::Records(records) = &mut known {
            let age = u32::try_from((now - entry.stored).as_secs()).unwrap_or(u32::MAX);
            for record in records {
                record.ttl = record.ttl.saturating_sub(age);
            }
        }
        Some((known, entry.server))
    }

    /// Remembers an answer for `ttl`; none at all if that is zero.
    pub(crate) fn insert(
        &mut self,
        question: &Question,
        known: Known,
        server: SocketAddr,
        ttl: Duration,
        now: Instant,
    ) {
        self.remove(question);
        while let Some((expires, _)) = self.expiry.first()
            && (*expires <= now || self.entries.len() >= self.limit)
            && let Some((_, oldest)) = self.expiry.pop_first()
        {
            self.entries.remove(&oldest);
        }
        if ttl.is_zero() || self.limit == 0 {
            return;
        }
        let expires = now + ttl;
        self.expiry.insert((expires, question.clone()));
        self.entries.insert(question.clone(), Entry { known, server, stored: now, expires });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, question: &Question) {
        if let Some(old) = self.entries.remove(question) {
            self.expiry.remove(&(old.expires, question.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{RecordData, RecordType};
    use super::super::name::Name;
    use super::*;

    fn question(name: &str) -> Question {
        Question { name: Name::parse(name).unwrap(), kind: RecordType::A }
    }

    fn server() -> SocketAddr {
        "10.0.0.53:53".parse().unwrap()
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn time_to_live_runs_down_and_out() {
        let mut cache = Cache::new(10);
        let data = RecordData::A([10, 0, 0, 1].into());
        let record = Record { name: "a.test".to_owned(), ttl: 60, data };
        let known = Known::Records(vec![record]);
        cache.insert(&question("a.test"), known, server(), Duration::from_secs(60), at(100));
        let ttl = |now| match cache.get(&question("a.test"), now) {
            Some((Known::Records(records), _)) => Some(records[0].ttl),
            _ => None,
        };
        assert_eq!([ttl(at(100)), ttl(at(130)), ttl(at(159))], [Some(60), Some(30), Some(1)]);
        assert_eq!(ttl(at(160)), None);
    }

    #[test]
    fn a_full_cache_forgets_what_expires_first() {
        let mut cache = Cache::new(3);
        for (name, ttl) in [("long.test", 300), ("short.test", 10), ("middle.test", 100)] {
            let ttl = Duration::from_secs(ttl);
            cache.insert(&question(name), Known::NoName, server(), ttl, at(0));
        }
        // The same one again takes no further room.
        let again = question("middle.test");
        cache.insert(&again, Known::NoRecord, server(), Duration::from_secs(100), at(1));
        let new = question("new.test");
        cache.insert(&new, Known::NoName, server(), Duration::from_secs(50), at(1));
        assert_eq!((cache.len(), cache.expiry.len()), (3, 3));
        assert!(cache.get(&question("short.test"), at(1)).is_none());
        assert!(cache.get(&question("long.test"), at(1)).is_some());
        assert_eq!(cache.get(&again, at(1)).unwrap().0, Known::NoRecord);
        cache.insert(&new, Known::NoName, server(), Duration::ZERO, at(1));
        assert!(cache.get(&new, at(1)).is_none());
    }
}
