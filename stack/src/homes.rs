use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Numbers there are.
const NUMBERS: usize = 1 << 16;
/// Nobody has it.
const NOBODY: u8 = u8::MAX;

/// Which shard has each UDP port, or each EtherType of custom protocols. All sockets of a port are on one
/// shard, so that any shard knows where to bring a datagram, and that shard alone knows whether an
/// address is taken.
#[derive(Clone, Debug)]
pub(crate) struct Homes(Arc<[AtomicU8]>);

impl Homes {
    /// The shard that has `number`, if one has.
    pub(crate) fn get(&self, number: u16) -> Option<usize> {
        let home = self.0[usize::from(number)].load(Ordering::Acquire);
        (home != NOBODY).then_some(usize::from(home))
    }

    /// Makes `shard` the home of `number`. False: another shard is.
    pub(crate) fn claim(&self, number: u16, shard: usize) -> bool {
        let home = &self.0[usize::from(number)];
        let claimed =
            home.compare_exchange(NOBODY, shard as u8, Ordering::AcqRel, Ordering::Acquire);
        claimed.is_ok() || claimed == Err(shard as u8)
    }

    /// The home of `number` has nobody there any more.
    pub(crate) fn release(&self, number: u16) {
        self.0[usize::from(number)].store(NOBODY, Ordering::Release);
    }
}

impl Default for Homes {
    /// Every number is nobody's.
    fn default() -> Self {
        Self((0..NUMBERS).map(|_| AtomicU8::new(NOBODY)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_home_at_a_time() {
        let homes = Homes::default();
        assert_eq!(homes.get(53), None);
        assert!(homes.claim(53, 2) && homes.claim(53, 2));
        assert!(!homes.claim(53, 0));
        assert_eq!((homes.get(53), homes.get(54)), (Some(2), None));
        homes.release(53);
        assert!(homes.claim(53, 0));
    }
}
