//! The options that say whose packets a stack takes.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use underpass::devices::{Action, Rate, Rule, RuleError, RuleMatch};

/// Rules about received packets.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Rules {
    /// Drop received packets: SOURCE[,PROTOCOL[/PORT]] such as 192.0.2.0/24 or ::/0,udp/53; repeat it
    /// for several. The longest prefix counts, then the port, then the protocol
    #[arg(long, value_name = "RULE")]
    deny: Vec<RuleMatch>,
    /// Take received packets that a wider --deny would drop; repeat it for several. RULE@RATE takes
    /// so many packets per second of each source, RULE@RATE/BURST up to BURST at once
    #[arg(long, value_name = "RULE[@RATE[/BURST]]")]
    allow: Vec<Allowed>,
}

/// `RULE[@RATE[/BURST]]`
#[derive(Clone, Copy, Debug, PartialEq)]
struct Allowed(Rule);

impl Rules {
    /// All of them, no two about the same packets.
    pub(crate) fn all(&self) -> Result<Vec<Rule>> {
        let denied = self.deny.iter().map(|matches| deny(*matches));
        let allowed = self.allow.iter().map(|allowed| allowed.0);
        let mut rules: Vec<Rule> = Vec::new();
        for rule in denied.chain(allowed) {
            if rules.iter().any(|other| other.matches == rule.matches) {
                bail!("two rules about {}: leave one of them out", rule.matches);
            }
            rules.push(rule);
        }
        Ok(rules)
    }
}

impl FromStr for Allowed {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (matches, rate) = match text.split_once('@') {
            Some((matches, rate)) => (matches, Some(rate.parse::<Rate>()?)),
            None => (text, None),
        };
        let action = rate.map_or(Action::Allow, Action::Limit);
        Ok(Self(Rule { matches: matches.parse()?, action }))
    }
}

/// A rule as it is given on the command line.
pub(crate) struct Given(pub(crate) Rule);

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { matches, action } = self.0;
        match action {
            Action::Allow => write!(f, "--allow {matches}"),
            Action::Deny => write!(f, "--deny {matches}"),
            Action::Limit(rate) => write!(f, "--allow {matches}@{rate}"),
        }
    }
}

fn deny(matches: RuleMatch) -> Rule {
    Rule { matches, action: Action::Deny }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_stand_behind_rules() {
        let given =
            |text: &str| text.parse::<Allowed>().map(|allowed| Given(allowed.0).to_string());
        assert_eq!(given("10.0.0.1").unwrap(), "--allow 10.0.0.1/32");
        assert_eq!(given("::/0,udp@100").unwrap(), "--allow ::/0,udp@100/100");
        assert_eq!(given("::/0,udp/53@100/5").unwrap(), "--allow ::/0,udp/53@100/5");
        assert_eq!(given("::/0@"), Err(RuleError::BadRate(String::new())));
    }

    #[test]
    fn two_rules_about_the_same_packets_are_refused() {
        let rules = |deny: &[&str], allow: &[&str]| Rules {
            deny: deny.iter().map(|rule| rule.parse().unwrap()).collect(),
            allow: allow.iter().map(|rule| rule.parse().unwrap()).collect(),
        };
        let three = rules(&["10.0.0.0/8", "10.0.0.0/8,udp"], &["10.0.0.0/8,tcp"]);
        assert_eq!(three.all().unwrap().len(), 3);
        let error = rules(&["10.0.0.0/8"], &["10.0.0.1/8@5"]).all().unwrap_err();
        assert!(error.to_string().contains("10.0.0.0/8"), "{error}");
    }
}
