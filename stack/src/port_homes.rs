use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Ports there are.
const PORTS: usize = 1 << 16;
/// Nobody's port.
const NOBODY: u8 = u8::MAX;

/// Which shard has the UDP sockets of each port: all sockets of a port are on one shard, so that any
/// shard knows where to bring a datagram, and that shard alone knows whether an address is taken.
#[derive(Clone, Debug)]
pub(crate) struct PortHomes(Arc<[AtomicU8]>);

impl PortHomes {
    /// The shard that has the sockets of `port`, if there are any.
    pub(crate) fn get(&self, port: u16) -> Option<usize> {
        let home = self.0[usize::from(port)].load(Ordering::Acquire);
        (home != NOBODY).then_some(usize::from(home))
    }

    /// Makes `shard` the home of `port`. False: another shard is.
    pub(crate) fn claim(&self, port: u16, shard: usize) -> bool {
        let home = &self.0[usize::from(port)];
        let claimed =
            home.compare_exchange(NOBODY, shard as u8, Ordering::AcqRel, Ordering::Acquire);
        claimed.is_ok() || claimed == Err(shard as u8)
    }

    /// The home of `port` has no socket there any more.
    pub(crate) fn release(&self, port: u16) {
        self.0[usize::from(port)].store(NOBODY, Ordering::Release);
    }
}

impl Default for PortHomes {
    /// Every port is nobody's.
    fn default() -> Self {
        Self((0..PORTS).map(|_| AtomicU8::new(NOBODY)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_one_home_at_a_time() {
        let homes = PortHomes::default();
        assert_eq!(homes.get(53), None);
        assert!(homes.claim(53, 2) && homes.claim(53, 2));
        assert!(!homes.claim(53, 0));
        assert_eq!((homes.get(53), homes.get(54)), (Some(2), None));
        homes.release(53);
        assert!(homes.claim(53, 0));
    }
}
