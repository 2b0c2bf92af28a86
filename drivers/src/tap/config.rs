use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use underpass_devices::MacAddr;

/// How to open a [`TapDevice`](super::TapDevice).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// Exchange superframes and partial checksums with the kernel.
    pub offload: bool,
    /// The device's own address; by default made from the kernel's address on the interface, which
    /// it must differ from.
    pub mac: Option<MacAddr>,
    /// MTU to set on the interface, in bytes; by default it stays as it is (1500 when created).
    pub mtu: Option<usize>,
    /// Addresses for the kernel's side, with the length of their prefix.
    pub host: Vec<IpNet>,
    /// How to hand frames to the kernel; by default the best that works.
    pub io: Option<IoMode>,
    /// Queues of the interface. Each [`TapDevice::open`](super::TapDevice::open) takes one more of
    /// them; the kernel spreads flows over those that are open.
    pub queues: usize,
    /// Frame buffers in each direction, up to [`MAX_SLOTS`](Self::MAX_SLOTS).
    pub slots: usize,
}

impl TapConfig {
    /// Most frame buffers in one direction.
    pub const MAX_SLOTS: usize = 4096;
    /// Most queues of one interface (`MAX_TAP_QUEUES` of the kernel).
    pub const MAX_QUEUES: usize = 256;

    /// What is wrong with these values, whatever the kernel thinks of them.
    pub(super) fn check(&self) -> Result<(), String> {
        let (slots, most) = (self.slots, Self::MAX_SLOTS);
        if !(1..=most).contains(&slots) {
            return Err(format!("slots={slots} is not within 1 and {most}"));
        }
        let (queues, most) = (self.queues, Self::MAX_QUEUES);
        if !(1..=most).contains(&queues) {
            return Err(format!("queues={queues} is not within 1 and {most}"));
        }
        match self.mac {
            Some(mac) if !mac.is_unicast() => {
                Err(format!("mac={mac} is not an address of a single station"))
            }
            _ => Ok(()),
        }
    }
}

impl Default for TapConfig {
    fn default() -> Self {
        Self {
            offload: true,
            mac: None,
            mtu: None,
            host: Vec::new(),
            io: None,
            queues: 1,
            slots: 128,
        }
    }
}

/// How frames are handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// A burst with one system call, through io_uring.
    Uring,
    /// One `write` for each frame.
    Plain,
}

impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Plain => "plain",
        })
    }
}

/// The text is neither `uring` nor `plain`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither uring nor plain")]
pub struct ParseIoModeError(String);

impl FromStr for IoMode {
    type Err = ParseIoModeError;

    fn from_str(text: &str) -> Result<Self, ParseIoModeError> {
        match text {
            "uring" => Ok(Self::Uring),
            "plain" => Ok(Self::Plain),
            _ => Err(ParseIoModeError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut TapConfig)) -> String {
        let mut config = TapConfig::default();
        config.check().unwrap();
        change(&mut config);
        config.check().unwrap_err()
    }

    #[test]
    fn limits_are_checked() {
        assert_eq!(refusal(|c| c.slots = 0), "slots=0 is not within 1 and 4096");
        assert!(refusal(|c| c.slots = 4097).contains("slots=4097"));
        assert!(refusal(|c| c.queues = 257).contains("queues=257 is not within 1 and 256"));
        assert!(refusal(|c| c.mac = Some(MacAddr::BROADCAST)).contains("single station"));
    }

    #[test]
    fn modes_read_back_as_they_are_printed() {
        for mode in [IoMode::Uring, IoMode::Plain] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("auto".parse::<IoMode>().is_err());
    }
}
