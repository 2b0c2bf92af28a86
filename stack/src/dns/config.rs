use std::time::Duration;

use super::Hosts;

/// How names are looked up, and the limits on it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DnsConfig {
    /// Names that need no server.
    pub hosts: Hosts,
    /// Domains that are tried behind a name that has fewer than `ndots` dots, or is not found.
    pub search: Vec<String>,
    /// Dots from which on a name is tried as it is first.
    pub ndots: usize,
    /// Port of the servers.
    pub port: u16,
    /// How long a server may take for its first answer; doubles with every round.
    pub timeout: Duration,
    /// How often each server is asked before a lookup fails.
    pub rounds: u32,
    /// Spell questions in random upper and lower case, which a forged answer would have to guess
    /// (draft-vixie-dnsext-dns0x20). A server that does not keep it is asked over TCP.
    pub mix_case: bool,
    /// Answers remembered.
    pub cache_entries: usize,
    /// Longest time that an answer is remembered.
    pub max_ttl: Duration,
    /// Longest time for which it is remembered that there is none (RFC 2308 §5).
    pub max_negative_ttl: Duration,
    /// Questions to servers at a time.
    pub questions: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            search: Vec::new(),
            ndots: 1,
            port: 53,
            timeout: Duration::from_secs(1),
            rounds: 3,
            mix_case: true,
            cache_entries: 1024,
            max_ttl: Duration::from_secs(24 * 3600),
            max_negative_ttl: Duration::from_secs(15 * 60),
            questions: 64,
        }
    }
}
