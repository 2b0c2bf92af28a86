use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::packet::Tuple;

/// Finds a flow by its two ends. The hash is keyed, so that a peer cannot choose ports that make a
/// chain (SipHash-1-3, as Rust's own maps). An entry holds the hash and the flow's slot only: four
/// share a cache line, and the tuple is compared where the flow itself lies.
pub(crate) struct FlowTable {
    entries: HashTable<Entry>,
    key: HashKey,
}

struct Entry {
    hash: u64,
    flow: u32,
}

impl FlowTable {
    pub(crate) fn new(key: HashKey) -> Self {
        Self { entries: HashTable::new(), key }
    }

    /// The flow between these two ends; `is_it` compares the tuple of a candidate.
    pub(crate) fn get(&self, tuple: &Tuple, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.key.tuple(tuple);
        self.entries.find(hash, |e| e.hash == hash && is_it(e.flow)).map(|e| e.flow)
    }

    /// Adds a flow whose tuple is not in the table.
    pub(crate) fn insert(&mut self, tuple: &Tuple, flow: u32) {
        let hash = self.key.tuple(tuple);
        self.entries.insert_unique(hash, Entry { hash, flow }, |entry| entry.hash);
    }

    pub(crate) fn remove(&mut self, tuple: &Tuple, flow: u32) {
        let hash = self.key.tuple(tuple);
        if let Ok(entry) = self.entries.find_entry(hash, |e| e.flow == flow) {
            entry.remove();
        }
    }
}

/// A secret key for hash tables that peers can put entries into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashKey(pub(crate) [u8; 16]);

impl HashKey {
    fn tuple(&self, tuple: &Tuple) -> u64 {
        let mut hasher = self.build_hasher();
        write(&mut hasher, tuple.local);
        write(&mut hasher, tuple.remote);
        hasher.finish()
    }
}

impl BuildHasher for HashKey {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

/// One write per end, which is quicker than the derived hash's one per field.
fn write(hasher: &mut SipHasher13, end: SocketAddr) {
    match end.ip() {
        IpAddr::V4(v4) => {
            hasher.write_u64(u64::from(u32::from(v4)) << 16 | u64::from(end.port()));
        }
        IpAddr::V6(v6) => {
            hasher.write(&v6.octets());
            hasher.write_u16(end.port());
        }
    }
}
