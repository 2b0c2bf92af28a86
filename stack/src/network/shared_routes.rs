//! Addresses, routes and MTUs of a stack with several shards. The first shard alone changes them; the
//! others take over what it publishes before they do anything else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Network;
use crate::link::LinkMtu;
use crate::routes::Routes;

/// One shard's hold on what the first shard has published.
pub(crate) struct SharedRoutes {
    published: Arc<Published>,
    /// The version this shard has.
    seen: u64,
}

#[derive(Default)]
struct Published {
    version: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    routes: Routes,
    /// By interface.
    mtus: Vec<LinkMtu>,
}

/// Makes the networks of all shards of a stack follow the first one.
pub(crate) fn share_routes<'a>(networks: impl IntoIterator<Item = &'a mut Network>) {
    let published = Arc::new(Published::default());
    for network in networks {
        let published = Arc::clone(&published);
        network.shared_routes = Some(SharedRoutes { published, seen: 0 });
    }
}

impl Network {
    /// Tells the other shards of addresses and routes that have changed.
    pub(super) fn publish(&mut self) {
        let Some(shared) = &mut self.shared_routes else {
            return;
        };
        let mut state = shared.published.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.routes = self.routes.clone();
        state.mtus = self.links.iter().map(|link| link.mtu).collect();
        shared.seen = shared.published.version.fetch_add(1, Ordering::Release) + 1;
    }

    /// Takes over what the first shard has changed.
    pub(crate) fn refresh(&mut self) {
        let Some(shared) = &mut self.shared_routes else {
            return;
        };
        let version = shared.published.version.load(Ordering::Acquire);
        if version != shared.seen {
            shared.seen = version;
            let state = shared.published.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.routes = state.routes.clone();
            for (link, mtu) in self.links.iter_mut().zip(&state.mtus) {
                self.mtu_changed |= link.mtu.get() != mtu.get();
                link.mtu = *mtu;
            }
        }
    }
}
