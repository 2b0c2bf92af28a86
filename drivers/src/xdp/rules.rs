//! Rules of the filter as entries of the map that the XDP program looks packets up in.

use std::num::NonZeroU32;

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use underpass_devices::{Action, Rate, Rule, RuleMatch};

use super::maps::{
    ACTION_ALLOW, ACTION_DENY, ACTION_LIMIT, RULE_PREFIX, RuleEntry, RuleKey, Shape, address_bytes,
    address_of,
};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// The key of a rule that was [`checked`](RuleMatch::checked).
pub(super) fn key(rule: &RuleMatch) -> Key<RuleKey> {
    let (source, family) = address_bytes(rule.source.addr());
    let key = RuleKey {
        protocol: rule.protocol.unwrap_or_default(),
        kind: Shape::of(rule.protocol, rule.port).kind(family),
        port: rule.port.unwrap_or_default().to_be_bytes(),
        source,
    };
    Key::new(RULE_PREFIX + u32::from(rule.source.prefix_len()), key)
}

/// The entry of a rule whose counters are in `slot`.
pub(super) fn entry(rule: &Rule, slot: u32) -> RuleEntry {
    let source_len = u32::from(rule.matches.source.prefix_len());
    let entry = RuleEntry { slot, source_len, ..RuleEntry::default() };
    match rule.action {
        Action::Allow => RuleEntry { action: ACTION_ALLOW, ..entry },
        Action::Deny => RuleEntry { action: ACTION_DENY, ..entry },
        Action::Limit(Rate { per_second, burst }) => {
            let interval = (NANOSECONDS_PER_SECOND / u64::from(per_second.get())).max(1);
            RuleEntry {
                action: ACTION_LIMIT,
                per_second: per_second.get(),
                burst: burst.get(),
                interval,
                tolerance: interval * u64::from(burst.get() - 1),
                ..entry
            }
        }
    }
}

/// The rule back from its key and entry. `None`: it was not written by [`key`] and [`entry`].
pub(super) fn rule(key: &Key<RuleKey>, entry: &RuleEntry) -> Option<Rule> {
    let data = key.data();
    let (shape, family) = (data.kind & 0xf0, data.kind & 0x0f);
    let source_len = u8::try_from(key.prefix_len().checked_sub(RULE_PREFIX)?).ok()?;
    let source = IpNet::new(address_of(data.source, family)?, source_len).ok()?;
    let (protocol, port) = match shape {
        0x10 => (None, None),
        0x20 => (Some(data.protocol), None),
        _ => (Some(data.protocol), Some(u16::from_be_bytes(data.port))),
    };
    let action = match entry.action {
        ACTION_ALLOW => Action::Allow,
        ACTION_DENY => Action::Deny,
        _ => Action::Limit(Rate {
            per_second: NonZeroU32::new(entry.per_second)?,
            burst: NonZeroU32::new(entry.burst)?,
        }),
    };
    Some(Rule { matches: RuleMatch { source, protocol, port }, action })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_the_map() {
        for (text, rate) in [
            ("0.0.0.0/0", None),
            ("192.0.2.0/24,udp/53", Some("1000/50")),
            ("::/0,tcp", None),
            ("2001:db8::1/128,0", Some("4000000000/1")),
        ] {
            let matches = text.parse().unwrap();
            let action = rate.map_or(Action::Deny, |rate| Action::Limit(rate.parse().unwrap()));
            let written = Rule { matches, action };
            assert_eq!(rule(&key(&matches), &entry(&written, 7)), Some(written));
        }
    }

    #[test]
    fn a_rate_is_a_distance_and_a_tolerance() {
        let limit = |rate: &str| {
            let matches = "::/0".parse().unwrap();
            let entry = entry(&Rule { matches, action: Action::Limit(rate.parse().unwrap()) }, 1);
            (entry.interval, entry.tolerance)
        };
        assert_eq!(limit("1000/1"), (1_000_000, 0));
        assert_eq!(limit("1000/50"), (1_000_000, 49_000_000));
        assert_eq!(limit("4000000000/2"), (1, 1));
    }
}
