use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Counts frames that the kernel dropped because nobody took them from the TAP's queue in time.
/// To the kernel they are transmit drops of the interface.
#[derive(Debug)]
pub(super) struct Overruns {
    /// Stays with the network namespace in which it was opened, whatever thread reads it.
    net_dev: File,
    name: String,
    before: u64,
}

impl Overruns {
    /// Counts from now on; `None` without `/proc`.
    pub(super) fn open(name: &str) -> Option<Self> {
        let net_dev = File::open("/proc/thread-self/net/dev").ok()?;
        let mut overruns = Self { net_dev, name: name.to_owned(), before: 0 };
        overruns.before = overruns.count();
        Some(overruns)
    }

    /// Zero once the interface is gone.
    pub(super) fn count(&self) -> u64 {
        self.read()
            .ok()
            .and_then(|text| tx_dropped(&text, &self.name))
            .unwrap_or_default()
            .saturating_sub(self.before)
    }

    fn read(&self) -> io::Result<String> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let len = self.net_dev.read_at(&mut buffer, text.len() as u64)?;
            if len == 0 {
                return String::from_utf8(text).map_err(io::Error::other);
            }
            text.extend_from_slice(buffer.get(..len).unwrap_or_default());
        }
    }
}

/// The transmit drops of an interface in `/proc/net/dev` (proc_net(5)): the twelfth number.
fn tx_dropped(net_dev: &str, name: &str) -> Option<u64> {
    let numbers =
        net_dev.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    numbers.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET_DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1     2    3    4    5     6          7         8     9    10   11   12    13    14      15         16
  tap0:  101   102  103  104  105   106        107       108   109   110  111  112   113   114     115        116
tap01:12345678 1 0 0 0 0 0 0 1 1 0 77 0 0 0 0
";

    #[test]
    fn the_right_number_of_the_right_interface() {
        assert_eq!(tx_dropped(NET_DEV, "tap0"), Some(112));
        assert_eq!(tx_dropped(NET_DEV, "tap01"), Some(77));
        assert_eq!(tx_dropped(NET_DEV, "ap0"), None);
        assert_eq!(tx_dropped("", "lo"), None);
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let net_dev = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(tx_dropped(&net_dev, "lo").is_some(), "{net_dev}");
        assert_eq!(Overruns::open("lo").unwrap().count(), 0);
    }
}
