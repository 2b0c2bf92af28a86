use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use underpass_devices::Instant;

use super::cache::{Cache, Known};
use super::config::DnsConfig;
use super::error::DnsError;
use super::exchange::{Asked, ask};
use super::flight::{Asker, Flight, Ticket};
use super::message::{MAX_ALIASES, Outcome, Query, Question, Record, RecordData, RecordType};
use super::name::{Name, candidates};
use super::schedule::Schedule;
use crate::Stack;
use crate::random::Random;

/// Looks up names ([`Stack::resolver`]). A handle: cheap to clone, with one cache for the stack.
#[derive(Clone)]
pub struct Resolver {
    stack: Stack,
}

/// What a name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// Aliases, in the order in which they lead on, then the records asked for, of which there is
    /// one at least.
    pub records: Vec<Record>,
    /// The server that said so; `None` for static names and `localhost`.
    pub server: Option<SocketAddr>,
    /// It was remembered: nobody was asked now.
    pub cached: bool,
}

/// What a stack's resolver has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsStats {
    /// Questions sent as datagrams.
    pub udp_queries: u64,
    /// Questions asked over TCP.
    pub tcp_queries: u64,
    /// Lookups answered from the cache.
    pub cache_hits: u64,
    /// Datagrams that were no answer to what was asked: forged, late, or garbage.
    pub mismatches: u64,
    /// Answers remembered now.
    pub cache_entries: usize,
}

/// The result of one question, for all who ask it.
pub(crate) type Resolution = Result<(Known, SocketAddr), DnsError>;

/// What all handles of a stack's resolver share.
#[derive(Debug)]
pub(crate) struct State {
    servers: Vec<IpAddr>,
    config: DnsConfig,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    random: Random,
    cache: Cache,
    flights: HashMap<Question, Arc<Flight>>,
    /// The server that answered last: the next question goes to it first.
    preferred: Option<SocketAddr>,
    stats: DnsStats,
}

impl Stack {
    /// The stack's resolver.
    pub fn resolver(&self) -> Resolver {
        Resolver { stack: self.clone() }
    }
}

impl Resolver {
    /// Looks up the records of one type of `name`: static names first, then the cache, then the
    /// servers; search domains as [`DnsConfig`] says.
    ///
    /// # Errors
    /// See [`DnsError`]; each names its cause.
    pub async fn lookup(&self, name: &str, kind: RecordType) -> Result<Answer, DnsError> {
        let mut first = None;
        for name in self.candidates(name)? {
            match self.lookup_complete(&name, kind).await {
                Err(error) if error.is_absence() => {
                    first.get_or_insert(error);
                }
                result => return result,
            }
        }
        Err(first.unwrap_or_else(|| DnsError::NoName(name.to_owned())))
    }

    /// The servers that are asked, in this order but for the one that answered last: those given to
    /// the builder, else those that the network has named.
    pub fn servers(&self) -> Vec<SocketAddr> {
        let State { servers, config, .. } = self.state();
        let named = if servers.is_empty() { self.stack.dns_servers() } else { Vec::new() };
        servers.iter().chain(&named).map(|ip| SocketAddr::new(*ip, config.port)).collect()
    }

    /// What it has done.
    pub fn stats(&self) -> DnsStats {
        let inner = self.state().lock();
        DnsStats { cache_entries: inner.cache.len(), ..inner.stats }
    }

    pub(crate) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The complete names that `name` may mean.
    pub(crate) fn candidates(&self, name: &str) -> Result<Vec<Name>, DnsError> {
        let DnsConfig { ndots, search, .. } = &self.state().config;
        candidates(name, *ndots, search)
            .map_err(|reason| DnsError::BadName { name: name.to_owned(), reason })
    }

    /// Looks up a complete name.
    pub(crate) async fn lookup_complete(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<Answer, DnsError> {
        if let Some(addresses) = self.fixed(name) {
            let records = fixed_records(name, kind, &addresses);
            if records.is_empty() {
                return Err(DnsError::NoRecord { name: name.to_string(), kind });
            }
            return Ok(Answer { records, server: None, cached: false });
        }
        if name.is_never_sent() {
            return Err(DnsError::NoName(name.to_string()));
        }
        let question = Question { name: name.clone(), kind };
        let now = self.now().await.map_err(|error| DnsError::Stack(error.to_string()))?;
        let remembered = self.state().remembered(&question, now);
        let cached = remembered.is_some();
        let (known, server) = match remembered {
            Some(known) => known,
            None => self.ask_once(&question).await?,
        };
        match known {
            Known::Records(records) => Ok(Answer { records, server: Some(server), cached }),
            Known::NoName => Err(DnsError::NoName(name.to_string())),
            Known::NoRecord => Err(DnsError::NoRecord { name: name.to_string(), kind }),
        }
    }

    /// Addresses that no server is asked for.
    fn fixed(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let known = self.state().config.hosts.get(name).map(<[IpAddr]>::to_vec);
        let loopback = || vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        known.or_else(|| name.is_localhost().then(loopback))
    }

    /// Asks, or waits for whoever asks the same.
    async fn ask_once(&self, question: &Question) -> Resolution {
        loop {
            match self.state().ticket(question)? {
                Ticket::Ask(asker) => {
                    // In a box: it is large, and most lookups do not come this far.
                    let result = Box::pin(self.ask_along(question)).await;
                    asker.finish(&result);
                    return result;
                }
                Ticket::Wait(flight) => {
                    if let Some(result) = flight.result().await {
                        return result;
                    }
                }
            }
        }
    }

    /// Asks for a name, then for what it is an alias of, and remembers what comes out.
    async fn ask_along(&self, question: &Question) -> Resolution {
        let mut records = Vec::new();
        let mut next = question.clone();
        let (known, server, ttl) = loop {
            let (outcome, server) = self.ask_servers(&next).await?;
            match outcome {
                Outcome::Found(found) => {
                    records.extend(found);
                    let ttl = records.iter().map(|record| record.ttl).min();
                    break (Known::Records(records), server, ttl);
                }
                Outcome::NoName(ttl) => break (Known::NoName, server, ttl),
                Outcome::NoRecord(ttl) => break (Known::NoRecord, server, ttl),
                Outcome::Alias(aliases, target) => {
                    records.extend(aliases);
                    if records.len() > MAX_ALIASES {
                        return Err(DnsError::TooManyAliases(question.name.to_string()));
                    }
                    if target.is_localhost() || target.is_never_sent() {
                        break (Known::NoName, server, None);
                    }
                    next.name = target;
                }
            }
        };
        // The answer has just come in a turn of the stack's: its time is the present.
        let now = self.stack.shard().with(|core| core.now);
        self.state().remember(question, &known, server, ttl.unwrap_or(0), now);
        Ok((known, server))
    }

    /// Asks one server after the other until one answers.
    async fn ask_servers(&self, question: &Question) -> Result<(Outcome, SocketAddr), DnsError> {
        let state = self.state();
        let servers = self.servers();
        if servers.is_empty() {
            return Err(DnsError::NoServer(question.name.to_string()));
        }
        let preferred = state.lock().preferred;
        let first = servers.iter().position(|server| Some(*server) == preferred).unwrap_or(0);
        let DnsConfig { timeout, rounds, .. } = state.config;
        let mut schedule = Schedule::new(&servers, first, timeout, rounds);
        while let Some((server, timeout)) = schedule.next() {
            match ask(&self.stack, state, server, question, timeout).await {
                Ok(Asked::Outcome(outcome)) => {
                    state.lock().preferred = Some(server);
                    return Ok((outcome, server));
                }
                Ok(Asked::Failure(why)) => schedule.fail(why),
                Ok(Asked::Silence) => {}
                Err(error) => return Err(DnsError::Stack(error.to_string())),
            }
        }
        Err(DnsError::Unanswered {
            name: question.name.to_string(),
            tried: schedule.report(),
            silence: schedule.is_silence(),
        })
    }

    /// The present: that of the stack's next turn, for it may have slept.
    async fn now(&self) -> io::Result<Instant> {
        self.stack.sleep(Duration::ZERO).await?;
        Ok(self.stack.shard().with(|core| core.now))
    }

    fn state(&self) -> &State {
        self.stack.dns()
    }
}

impl State {
    pub(crate) fn new(servers: Vec<IpAddr>, config: DnsConfig, random: Random) -> Self {
        let inner = Inner {
            random,
            cache: Cache::new(config.cache_entries),
            flights: HashMap::new(),
            preferred: None,
            stats: DnsStats::default(),
        };
        Self { servers, config, inner: Mutex::new(inner) }
    }

    /// A message that asks `question`, unlike any other one.
    pub(crate) fn query(&self, question: &Question) -> Query {
        Query::new(question, self.config.mix_case, &mut self.lock().random)
    }

    /// Any port from `first` on.
    pub(crate) fn random_port(&self, first: u16) -> u16 {
        let span = u64::from(u16::MAX - first) + 1;
        first + (self.lock().random.u64() % span) as u16
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut DnsStats)) {
        count(&mut self.lock().stats);
    }

    pub(crate) fn forget_flight(&self, question: &Question) {
        self.lock().flights.remove(question);
    }

    fn remembered(&self, question: &Question, now: Instant) -> Option<(Known, SocketAddr)> {
        let mut inner = self.lock();
        let known = inner.cache.get(question, now)?;
        inner.stats.cache_hits += 1;
        Some(known)
    }

    fn remember(
        &self,
        question: &Question,
        known: &Known,
        server: SocketAddr,
        ttl: u32,
        now: Instant,
    ) {
        let longest = match known {
            Known::Records(_) => self.config.max_ttl,
            Known::NoName | Known::NoRecord => self.config.max_negative_ttl,
        };
        let ttl = Duration::from_secs(ttl.into()).min(longest);
        self.lock().cache.insert(question, known.clone(), server, ttl, now);
    }

    fn ticket(&self, question: &Question) -> Result<Ticket<'_>, DnsError> {
        let mut inner = self.lock();
        if let Some(flight) = inner.flights.get(question) {
            return Ok(Ticket::Wait(Arc::clone(flight)));
        }
        let limit = self.config.questions;
        if inner.flights.len() >= limit {
            return Err(DnsError::TooManyQuestions(limit));
        }
        let flight = Arc::new(Flight::default());
        inner.flights.insert(question.clone(), Arc::clone(&flight));
        Ok(Ticket::Ask(Asker::new(self, question.clone(), flight)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DnsError {
    /// There is nothing of that name, for certain.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::NoName(_) | Self::NoRecord { .. })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("servers", &self.servers()).finish_non_exhaustive()
    }
}

fn fixed_records(name: &Name, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
    let data = addresses.iter().filter_map(|ip| match (kind, ip) {
        (RecordType::A, IpAddr::V4(ip)) => Some(RecordData::A(*ip)),
        (RecordType::Aaaa, IpAddr::V6(ip)) => Some(RecordData::Aaaa(*ip)),
        _ => None,
    });
    data.map(|data| Record { name: name.to_string(), ttl: 0, data }).collect()
}
