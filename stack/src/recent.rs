use std::net::SocketAddr;

/// Where a socket has sent to lately. An ICMP error about anybody else is not about this socket.
#[derive(Debug, Default)]
pub(crate) struct RecentPeers {
    peers: [Option<SocketAddr>; 8],
    next: usize,
}

impl RecentPeers {
    /// Something goes to `peer`. The one of eight that was new the longest time ago is forgotten.
    pub(crate) fn add(&mut self, peer: SocketAddr) {
        if !self.contains(peer) {
            self.peers[self.next % self.peers.len()] = Some(peer);
            self.next = self.next.wrapping_add(1);
        }
    }

    pub(crate) fn contains(&self, peer: SocketAddr) -> bool {
        self.peers.contains(&Some(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_are_remembered() {
        let peer = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let mut recent = RecentPeers::default();
        for port in [1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 9] {
            recent.add(peer(port));
        }
        let known: Vec<u16> = (0..20).filter(|port| recent.contains(peer(*port))).collect();
        assert_eq!(known, [2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
