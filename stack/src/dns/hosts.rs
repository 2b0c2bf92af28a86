use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::name::Name;

/// Names with fixed addresses, as in `/etc/hosts`. They come before every server's answer.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<HashMap<Name, Vec<IpAddr>>>);

impl Hosts {
    /// Reads the text of a hosts file (hosts(5)): lines of an address and its names; `#` begins a
    /// comment. As everywhere, what is not understood (an address with a zone, say) is passed over;
    /// a warning tells.
    ///
    /// ```
    /// let hosts = underpass::Hosts::parse("10.7.0.1 gateway.test gateway # the other end");
    /// assert_eq!(hosts.addresses("gateway"), [std::net::IpAddr::from([10, 7, 0, 1])]);
    /// ```
    pub fn parse(text: &str) -> Self {
        let mut names: HashMap<Name, Vec<IpAddr>> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split('#').next().unwrap_or("").split_ascii_whitespace();
            let Some(first) = words.next() else {
                continue;
            };
            let Ok(address) = first.parse::<IpAddr>() else {
                tracing::warn!("hosts, line {}: '{first}' is not an IP address", number + 1);
                continue;
            };
            for word in words {
                match Name::parse(word) {
                    Ok(name) => {
                        let addresses = names.entry(name).or_default();
                        if !addresses.contains(&address) {
                            addresses.push(address);
                        }
                    }
                    Err(reason) => {
                        tracing::warn!("hosts, line {}: '{word}': {reason}", number + 1);
                    }
                }
            }
        }
        Self(Arc::new(names))
    }

    /// The addresses of `name`, in the order of the text.
    pub fn addresses(&self, name: &str) -> &[IpAddr] {
        Name::parse(name).ok().and_then(|name| self.get(&name)).unwrap_or_default()
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&[IpAddr]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_as_they_are() {
        let hosts = Hosts::parse(
            "127.0.0.1\tlocalhost\n# comment\n\n10.0.0.9   Web.Test web # another\n\
             fd00::9 web.test\nfe80::1%lo0 localhost\nnonsense here\n10.0.0.9 web.test bad..name",
        );
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(hosts.addresses("WEB.test."), [ip("10.0.0.9"), ip("fd00::9")]);
        assert_eq!(hosts.addresses("web"), [ip("10.0.0.9")]);
        assert_eq!(hosts.addresses("localhost"), [ip("127.0.0.1")]);
        assert!(hosts.addresses("nonsense").is_empty() && hosts.addresses("bad..name").is_empty());
    }
}
