use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Action, Rule, RuleError, RuleMatch, RuleReport, VerdictCounts};
use crate::PacketKey;

/// Rules of a table that is not told otherwise.
pub const MAX_RULES: usize = 1024;

/// Rules, and which one counts for a packet.
///
/// A look-up takes at most three hash look-ups per length of prefix that a rule has, whatever the
/// number of rules.
///
/// ```
/// use underpass_devices::{Action, Medium, PacketKey, Rule, RuleTable};
///
/// let mut rules = RuleTable::default();
/// rules.insert(Rule { matches: "192.0.2.0/24".parse()?, action: Action::Deny })?;
/// let from = |source: [u8; 4]| PacketKey {
///     source: source.into(),
///     destination: [10, 0, 0, 1].into(),
///     protocol: 17,
///     port: Some(53),
/// };
/// assert_eq!(rules.find(&from([192, 0, 2, 7])).unwrap().action, Action::Deny);
/// assert_eq!(rules.find(&from([198, 51, 100, 7])), None);
/// # Ok::<(), underpass_devices::RuleError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RuleTable {
    limit: usize,
    rules: HashMap<RuleMatch, Entry>,
    /// Of IPv4 and IPv6, the longest prefix first: how many rules have it, of each [`Shape`].
    lengths: [BTreeMap<Reverse<u8>, [usize; SHAPES.len()]>; 2],
    next_id: u64,
}

/// A rule in the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) action: Action,
    pub(super) counts: VerdictCounts,
    /// Of this rule with this action, and of nothing else ever.
    pub(super) id: u64,
}

/// What a rule names beside its source.
#[derive(Clone, Copy)]
enum Shape {
    Port,
    Protocol,
    Source,
}

/// In the order in which they count.
const SHAPES: [Shape; 3] = [Shape::Port, Shape::Protocol, Shape::Source];

impl RuleTable {
    /// A table of at most `limit` rules.
    pub fn new(limit: usize) -> Self {
        Self { limit, rules: HashMap::new(), lengths: Default::default(), next_id: 0 }
    }

    /// Adds a rule, or gives the one that is about the same packets this action; its counts stay.
    ///
    /// # Errors
    /// [`RuleError::PortWithoutProtocol`], [`RuleError::Full`].
    pub fn insert(&mut self, rule: Rule) -> Result<(), RuleError> {
        let (matches, action) = (rule.matches.checked()?, rule.action);
        let id = self.next_id;
        if let Some(entry) = self.rules.get_mut(&matches) {
            if entry.action != action {
                (entry.action, entry.id) = (action, id);
                self.next_id += 1;
            }
            return Ok(());
        }
        if self.rules.len() >= self.limit {
            return Err(RuleError::Full(self.limit));
        }
        self.next_id += 1;
        self.rules.insert(matches, Entry { action, counts: VerdictCounts::default(), id });
        let lengths = &mut self.lengths[family(matches.source.addr())];
        let of_length = lengths.entry(Reverse(matches.source.prefix_len())).or_default();
        of_length[Shape::of(&matches) as usize] += 1;
        Ok(())
    }

    /// Takes a rule out. `None`: it was not there.
    pub fn remove(&mut self, matches: &RuleMatch) -> Option<RuleReport> {
        let matches = matches.checked().ok()?;
        let entry = self.rules.remove(&matches)?;
        let lengths = &mut self.lengths[family(matches.source.addr())];
        let length = Reverse(matches.source.prefix_len());
        if let Some(of_length) = lengths.get_mut(&length) {
            of_length[Shape::of(&matches) as usize] -= 1;
            if of_length.iter().all(|count| *count == 0) {
                lengths.remove(&length);
            }
        }
        Some(entry.report(matches))
    }

    /// The rule that counts for a packet.
    pub fn find(&self, packet: &PacketKey) -> Option<Rule> {
        let matches = self.winner(packet)?;
        self.rules.get(&matches).map(|entry| Rule { matches, action: entry.action })
    }

    /// Every rule and its counts, in order of sources.
    pub fn reports(&self) -> Vec<RuleReport> {
        let mut reports: Vec<_> =
            self.rules.iter().map(|(matches, entry)| entry.report(*matches)).collect();
        reports.sort_unstable_by_key(|report| report.rule.matches);
        reports
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn find_mut(&mut self, packet: &PacketKey) -> Option<&mut Entry> {
        let matches = self.winner(packet)?;
        self.rules.get_mut(&matches)
    }

    fn winner(&self, packet: &PacketKey) -> Option<RuleMatch> {
        for (Reverse(length), of_length) in &self.lengths[family(packet.source)] {
            let source = IpNet::new(packet.source, *length).ok()?.trunc();
            for (shape, _) in SHAPES.into_iter().zip(of_length).filter(|(_, count)| **count > 0) {
                let Some(matches) = shape.about(source, packet) else { continue };
                if self.rules.contains_key(&matches) {
                    return Some(matches);
                }
            }
        }
        None
    }
}

/// A table of at most [`MAX_RULES`].
impl Default for RuleTable {
    fn default() -> Self {
        Self::new(MAX_RULES)
    }
}

impl Entry {
    fn report(&self, matches: RuleMatch) -> RuleReport {
        RuleReport { rule: Rule { matches, action: self.action }, counts: self.counts }
    }
}

impl Shape {
    const fn of(matches: &RuleMatch) -> Self {
        match (matches.protocol, matches.port) {
            (_, Some(_)) => Self::Port,
            (Some(_), None) => Self::Protocol,
            (None, None) => Self::Source,
        }
    }

    /// The rule of this shape that is about a packet. `None`: there can be none.
    fn about(self, source: IpNet, packet: &PacketKey) -> Option<RuleMatch> {
        let (protocol, port) = match self {
            Self::Port => (Some(packet.protocol), Some(packet.port?)),
            Self::Protocol => (Some(packet.protocol), None),
            Self::Source => (None, None),
        };
        Some(RuleMatch { source, protocol, port })
    }
}

fn family(ip: IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(source: IpAddr, protocol: u8, port: Option<u16>) -> PacketKey {
        PacketKey { source, destination: source, protocol, port }
    }

    fn deny(matches: &str) -> Rule {
        Rule { matches: matches.parse().unwrap(), action: Action::Deny }
    }

    #[test]
    fn the_most_specific_rule_counts() {
        let mut table = RuleTable::default();
        let texts =
            ["0.0.0.0/0,tcp/22", "0.0.0.0/0,tcp", "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16,udp"];
        for text in texts {
            table.insert(deny(text)).unwrap();
        }
        let winner = |source: [u8; 4], protocol, port| {
            let rule = table.find(&key(source.into(), protocol, port)).unwrap();
            rule.matches.to_string()
        };
        assert_eq!(winner([9, 0, 0, 1], 6, Some(22)), "0.0.0.0/0,tcp/22");
        assert_eq!(winner([9, 0, 0, 1], 6, Some(23)), "0.0.0.0/0,tcp");
        assert_eq!(winner([9, 0, 0, 1], 6, None), "0.0.0.0/0,tcp", "a fragment");
        assert_eq!(winner([9, 0, 0, 1], 17, Some(22)), "0.0.0.0/0");
        assert_eq!(winner([10, 1, 0, 1], 17, Some(22)), "10.1.0.0/16,udp");
        assert_eq!(winner([10, 1, 0, 1], 6, Some(22)), "10.0.0.0/8", "length goes first");
        assert_eq!(table.find(&key("::1".parse().unwrap(), 6, Some(22))), None);
    }

    #[test]
    fn a_rule_is_what_it_is_about() {
        let mut table = RuleTable::new(2);
        table.insert(deny("10.0.0.1/8")).unwrap();
        let packet = key([10, 2, 0, 1].into(), 6, None);
        table.find_mut(&packet).unwrap().counts.drop.add(60);
        let source: RuleMatch = "10.0.0.0/8".parse().unwrap();
        table.insert(Rule { matches: source, action: Action::Allow }).unwrap();
        assert_eq!(table.len(), 1);
        assert_eq!(table.find(&packet).unwrap().action, Action::Allow);
        table.insert(deny("10.0.0.0/8,udp")).unwrap();
        assert_eq!(table.insert(deny("10.0.0.0/9")), Err(RuleError::Full(2)));
        table.insert(deny("10.0.0.0/8")).unwrap();
        // The bits behind the prefix do not count, however the rule was made.
        let source = RuleMatch { source: "10.9.9.9/8".parse().unwrap(), ..source };
        assert_eq!(table.remove(&source).unwrap().counts.drop.packets, 1);
        assert_eq!((table.remove(&source), table.len()), (None, 1));
        assert_eq!(table.find(&packet), None);
        let port = RuleMatch { port: Some(1), ..source };
        let rule = Rule { matches: port, action: Action::Deny };
        assert_eq!(table.insert(rule), Err(RuleError::PortWithoutProtocol(1)));
    }

    /// Few bits, so that prefixes hold one another.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..4_u8, 0..4_u8).prop_map(|(a, b)| IpAddr::from([a << 6, 0, 0, b])),
            (0..4_u16, 0..4_u16).prop_map(|(a, b)| IpAddr::from([a << 14, 0, 0, 0, 0, 0, 0, b])),
        ]
    }

    fn matches() -> impl Strategy<Value = RuleMatch> {
        let shape = prop_oneof![
            Just((None, None)),
            prop::sample::select(vec![1, 6, 17]).prop_map(|protocol| (Some(protocol), None)),
            (prop::sample::select(vec![6, 17]), 0..3_u16).prop_map(|(a, b)| (Some(a), Some(b))),
        ];
        let length = prop::sample::select(vec![0_u8, 1, 2, 8, 30, 31, 32, 127, 128]);
        (addresses(), length, shape).prop_map(|(ip, length, (protocol, port))| {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            let source = IpNet::new(ip, length.min(most)).unwrap();
            RuleMatch { source, protocol, port }.checked().unwrap()
        })
    }

    fn naive(rules: &[RuleMatch], packet: &PacketKey) -> Option<RuleMatch> {
        let about = |rule: &&RuleMatch| {
            rule.source.contains(&packet.source)
                && rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
                && rule.port.is_none_or(|port| Some(port) == packet.port)
        };
        let rank = |rule: &&RuleMatch| {
            (rule.source.prefix_len(), rule.port.is_some(), rule.protocol.is_some())
        };
        rules.iter().filter(about).max_by_key(rank).copied()
    }

    proptest! {
        #[test]
        fn it_finds_what_a_scan_finds(
            steps in prop::collection::vec((matches(), prop::bool::weighted(0.7)), 0..60),
            packets in prop::collection::vec(
                (addresses(), prop::sample::select(vec![1_u8, 6, 17]), prop::option::of(0..3_u16)),
                0..40,
            ),
        ) {
            let (mut table, mut rules) = (RuleTable::new(60), Vec::new());
            for (matches, inserted) in steps {
                let known = rules.contains(&matches);
                if inserted {
                    table.insert(Rule { matches, action: Action::Deny }).unwrap();
                    rules.extend((!known).then_some(matches));
                } else {
                    prop_assert_eq!(table.remove(&matches).is_some(), known);
                    rules.retain(|rule| *rule != matches);
                }
                prop_assert_eq!(table.len(), rules.len());
            }
            for (source, protocol, port) in packets {
                let packet = key(source, protocol, port);
                let found = table.find(&packet).map(|rule| rule.matches);
                prop_assert_eq!(found, naive(&rules, &packet));
            }
            let mut sorted = rules;
            sorted.sort_unstable();
            let reported: Vec<_> = table.reports().iter().map(|r| r.rule.matches).collect();
            prop_assert_eq!(reported, sorted);
        }
    }
}
