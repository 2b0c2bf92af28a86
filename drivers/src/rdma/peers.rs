//! The table of peers, and the thread that finds the ways.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use underpass_devices::{Instant, MacAddr};

use super::verbs::{AddressHandle, ProtectionDomain, Route};
use crate::rdma_peer::Peer;
use crate::rdma_peer_table::{Heard, PeerTable};

/// What both halves of a device know of others.
#[derive(Debug)]
pub(super) struct Peers {
    state: Mutex<State>,
    /// There are retired handles.
    has_retired: AtomicBool,
    domain: Arc<ProtectionDomain>,
    /// To everywhere, but for the destination.
    route: Route,
}

#[derive(Debug)]
struct State {
    table: PeerTable<AddressHandle>,
    /// Requests may still need them.
    retired: Vec<AddressHandle>,
    unreachable: u64,
}

/// What has happened to the table of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Peers in the table.
    pub known: usize,
    /// Of these, the way is known to so many.
    pub reachable: usize,
    /// Datagrams of newcomers for whom the table had no place, since open.
    pub refused: u64,
    /// How often no way to a peer was found, since open.
    pub unreachable: u64,
}

/// How peers that were heard get to the thread that finds the way to them. It ends with this.
#[derive(Debug)]
pub(super) struct Finder(SyncSender<Peer>);

/// The way to a configured peer is looked for every so often until it is there.
const RETRY: Duration = Duration::from_secs(1);

impl Peers {
    /// Begins to look for those that are configured.
    pub(super) fn start(
        domain: &Arc<ProtectionDomain>,
        route: Route,
        limit: usize,
        configured: &[Peer],
    ) -> io::Result<(Arc<Self>, Finder)> {
        let state =
            State { table: PeerTable::new(limit, configured), retired: Vec::new(), unreachable: 0 };
        let peers = Arc::new(Self {
            state: Mutex::new(state),
            has_retired: AtomicBool::new(false),
            domain: Arc::clone(domain),
            route,
        });
        let (finder, requests) = sync_channel(limit);
        let theirs = Arc::clone(&peers);
        thread::Builder::new()
            .name("rdma-peers".to_owned())
            .spawn(move || theirs.find(&requests))?;
        Ok((peers, Finder(finder)))
    }

    /// A datagram of `peer` was received. Does not wait.
    pub(super) fn heard(&self, peer: Peer, now: Instant, finder: &Finder) {
        let mut state = self.lock();
        let Heard::New(replaced) = state.table.heard(peer, now) else {
            return;
        };
        if let Some(handle) = replaced {
            self.retire(&mut state, handle);
        }
        // As many fit as the table has places; there can be more only for some that were replaced.
        if finder.0.try_send(peer).is_err() {
            state.table.not_found(&peer);
            state.unreachable += 1;
        }
    }

    /// Calls `with` with the way to the station of this address. False: none is known.
    pub(super) fn to(&self, mac: MacAddr, with: impl FnOnce(&Peer, &AddressHandle)) -> bool {
        let state = self.lock();
        state.table.way(mac).map(|(peer, handle)| with(peer, handle)).is_some()
    }

    /// The same for all that are known.
    pub(super) fn to_all(&self, mut with: impl FnMut(&Peer, &AddressHandle)) {
        self.lock().table.known().for_each(|(peer, handle)| with(peer, handle));
    }

    /// Handles that nobody gets any more, once all requests that were queued until now are complete.
    pub(super) fn take_retired(&self) -> Option<Vec<AddressHandle>> {
        if !self.has_retired.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        self.has_retired.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut state.retired))
    }

    pub(super) fn counters(&self) -> PeerCounters {
        let state = self.lock();
        PeerCounters {
            known: state.table.len(),
            reachable: state.table.known().count(),
            refused: state.table.refused(),
            unreachable: state.unreachable,
        }
    }

    /// Finds the ways to those that are asked for, until nobody can ask.
    fn find(&self, requests: &Receiver<Peer>) {
        for peer in self.missing() {
            self.find_one(peer);
        }
        loop {
            let missing = self.missing();
            let request = if missing.is_empty() {
                requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                requests.recv_timeout(RETRY)
            };
            match request {
                Ok(peer) => self.find_one(peer),
                Err(RecvTimeoutError::Timeout) => {
                    for peer in missing {
                        self.find_one(peer);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes as long as the kernel takes to ask the network: up to seconds.
    fn find_one(&self, peer: Peer) {
        let route = Route { destination: peer.gid, ..self.route };
        let found = AddressHandle::new(&self.domain, &route);
        let mut state = self.lock();
        match found {
            Ok(handle) => {
                if let Some(handle) = state.table.found(&peer, handle) {
                    self.retire(&mut state, handle);
                }
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "no way to a peer");
                state.table.not_found(&peer);
                state.unreachable += 1;
            }
        }
    }

    fn missing(&self) -> Vec<Peer> {
        self.lock().table.missing()
    }

    fn retire(&self, state: &mut State, handle: AddressHandle) {
        state.retired.push(handle);
        self.has_retired.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
