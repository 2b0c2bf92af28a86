//! Names of hosts.

use std::fmt;

/// Longest name, in text without the final dot (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Names that are never asked for, with everything below them: RFC 6761 §6.4, RFC 7686. `localhost`
/// is another matter: it has an answer.
const NEVER_SENT: [&str; 2] = ["invalid", "onion"];

/// A valid, complete name in lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(Box<str>);

impl Name {
    /// Checks a name as a user writes it; a final dot is left out.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err("it is empty");
        }
        if !text.is_ascii() {
            return Err("it has letters outside ASCII; write it in Punycode (xn--…)");
        }
        if text.len() > MAX_NAME {
            return Err("it is longer than 253 characters");
        }
        text.split('.').try_for_each(|label| check_label(label.as_bytes()))?;
        let last = text.rsplit('.').next().unwrap_or(text);
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("it ends in a number but is not an IP address");
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name of these labels of a message; `None` if it is not one of a host.
    pub(crate) fn from_labels<'a, E>(
        labels: impl Iterator<Item = Result<&'a [u8], E>>,
    ) -> Option<Self> {
        let mut text = String::new();
        for label in labels {
            let label = label.ok()?;
            check_label(label).ok()?;
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(std::str::from_utf8(label).ok()?);
            if text.len() > MAX_NAME {
                return None;
            }
        }
        text.make_ascii_lowercase();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The name as it is on the wire (RFC 1035 §3.1), with letters in upper case where `upper` says
    /// so.
    pub(crate) fn to_wire(&self, mut upper: impl FnMut() -> bool) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.0.len() + 2);
        for label in self.0.split('.') {
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| {
                if byte.is_ascii_lowercase() && upper() { byte.to_ascii_uppercase() } else { byte }
            }));
        }
        wire.push(0);
        wire
    }

    /// True if it is `zone` or below it. The root is given as an empty string.
    pub(crate) fn is_within(&self, zone: &str) -> bool {
        zone.is_empty()
            || self.0.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// `localhost` or below it (RFC 6761 §6.3).
    pub(crate) fn is_localhost(&self) -> bool {
        self.is_within("localhost")
    }

    /// No server may be asked.
    pub(crate) fn is_never_sent(&self) -> bool {
        NEVER_SENT.iter().any(|zone| self.is_within(zone))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to look up, in this order, for a name as a user writes it: one with a final dot is complete;
/// one with `ndots` dots or more is tried as it is before the search domains, any other one after
/// them (resolv.conf(5)). Domains that make it too long are left out.
pub(crate) fn candidates(
    text: &str,
    ndots: usize,
    search: &[String],
) -> Result<Vec<Name>, &'static str> {
    let name = Name::parse(text)?;
    if text.ends_with('.') || name.is_localhost() {
        return Ok(vec![name]);
    }
    let dots = text.bytes().filter(|byte| *byte == b'.').count();
    let mut all: Vec<Name> =
        search.iter().filter_map(|domain| Name::parse(&format!("{name}.{domain}")).ok()).collect();
    all.insert(if dots >= ndots { 0 } else { all.len() }, name);
    Ok(all)
}

fn check_label(label: &[u8]) -> Result<(), &'static str> {
    match label {
        [] => Err("it has an empty label: two dots in a row, or one at the start"),
        _ if label.len() > MAX_LABEL => Err("it has a label of more than 63 characters"),
        [b'-', ..] | [.., b'-'] => Err("it has a label that begins or ends with a hyphen"),
        // The underscore is in no host name by RFC 1123, and in many a real one.
        _ if label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) => Ok(()),
        _ => Err("it has a character that is no letter, digit, hyphen or underscore"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str, ndots: usize, search: &[&str]) -> Vec<String> {
        let search: Vec<String> = search.iter().map(ToString::to_string).collect();
        let names = candidates(text, ndots, &search).unwrap();
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_of_hosts_only() {
        assert_eq!(Name::parse("Host.Example.").unwrap().to_string(), "host.example");
        assert!(Name::parse(&format!("{}.a", "x".repeat(63))).is_ok());
        let long = format!("{}a", "x.".repeat(127));
        for (text, reason) in [
            ("", "empty"),
            (".", "empty"),
            ("a..b", "two dots"),
            (".a", "two dots"),
            ("a b", "character"),
            ("a\0b", "character"),
            ("b\u{fc}cher.example", "Punycode"),
            ("-a.example", "hyphen"),
            ("1.2.3.4", "number"),
            ("10.0.0", "number"),
            (&format!("{}.a", "x".repeat(64)), "63"),
            (&long, "253"),
        ] {
            let error = Name::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn search_domains_come_before_or_after_by_the_number_of_dots() {
        assert_eq!(list("web", 1, &["a.test", "b.test"]), ["web.a.test", "web.b.test", "web"]);
        assert_eq!(list("web.x", 1, &["a.test"]), ["web.x", "web.x.a.test"]);
        assert_eq!(list("web.x", 2, &["a.test"]), ["web.x.a.test", "web.x"]);
        assert_eq!(list("web.", 1, &["a.test"]), ["web"]);
        assert_eq!(list("localhost", 1, &["a.test"]), ["localhost"]);
        assert_eq!(list("web", 1, &[&"x".repeat(300)]), ["web"]);
    }

    #[test]
    fn zones_end_at_a_dot() {
        let name = Name::parse("a.example.test").unwrap();
        assert!(name.is_within("example.test") && name.is_within("") && name.is_within("test"));
        assert!(!name.is_within("ample.test") && !name.is_within("b.a.example.test"));
    }
}
