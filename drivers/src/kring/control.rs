//! What is asked of the module through its device file.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{Getter, NoArg, Setter, Updater, ioctl};
use underpass_devices::{MacAddr, VlanId};

use super::KringConfig;
use super::uapi::{self, Attach, Rule, Setup, Stats, TargetEntry};
use crate::targets::Target;

/// The open device file: one ring.
#[derive(Debug)]
pub(super) struct Control {
    file: OwnedFd,
}

/// A counter of the module's (`enum underpass_ring_counter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "all of the module's, in its order"))]
pub(super) enum Statistic {
    RxFrames,
    RxNotSelected,
    RxNoFrame,
    RxRingFull,
    RxTooLong,
    RxNoMemory,
    RxBadFill,
    TxFrames,
    TxCopied,
    TxDropped,
    TxBadFrame,
    TxCompleted,
    BadIndex,
    Echoes,
}

impl Control {
    /// A ring without memory and interface.
    pub(super) fn open() -> io::Result<Self> {
        let file = open(uapi::PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { file })
    }

    /// Makes the memory, and fills in the places in it. EPROTO: the module's ABI, which is then in
    /// there, is not ours.
    pub(super) fn set_up(&self, setup: &mut Setup) -> io::Result<()> {
        // SAFETY: the opcode is that of a request that reads and writes a `Setup` (`uapi.rs`).
        unsafe { ioctl(&self.file, Updater::<{ uapi::SETUP }, _>::new(setup)) }?;
        Ok(())
    }

    pub(super) fn attach(&self, ifindex: u32, config: &KringConfig) -> io::Result<()> {
        let attach = Attach {
            ifindex,
            echo_type: config.echo.unwrap_or_default(),
            reserved: 0,
            tx_poll_us: config.tx_poll_us,
        };
        // SAFETY: the opcode is that of a request that reads an `Attach`.
        unsafe { ioctl(&self.file, Setter::<{ uapi::ATTACH }, _>::new(attach)) }?;
        Ok(())
    }

    pub(super) fn set_rule(
        &self,
        flags: u32,
        vlan: Option<VlanId>,
        MacAddr(mac): MacAddr,
        targets: &HashMap<Target, u32>,
    ) -> io::Result<()> {
        if targets.len() > uapi::MAX_TARGETS {
            return Err(io::Error::other(format!(
                "{} entries are needed to select what the stack wants, and the module takes {}",
                targets.len(),
                uapi::MAX_TARGETS
            )));
        }
        let entries: Vec<_> =
            targets.iter().map(|(key, flags)| TargetEntry { key: *key, flags: *flags }).collect();
        let rule = Rule {
            flags,
            vlan: vlan.map_or(0, VlanId::number),
            mac,
            target_count: entries.len() as u32,
            targets: entries.as_ptr() as u64,
        };
        // SAFETY: the opcode is that of a request that reads a `Rule`, and so many entries where it
        // says, which live until the call returns.
        unsafe { ioctl(&self.file, Setter::<{ uapi::RULE }, _>::new(rule)) }?;
        Ok(())
    }

    /// Has the module send what is in the transmit ring.
    pub(super) fn ring_doorbell(&self) -> Result<(), Errno> {
        // SAFETY: the opcode is that of a request without an argument.
        unsafe { ioctl(&self.file, NoArg::<{ uapi::DOORBELL }>::new()) }
    }

    /// What has happened, by [`Statistic`].
    pub(super) fn statistics(&self) -> io::Result<Stats> {
        // SAFETY: the opcode is that of a request that writes a `Stats`.
        Ok(unsafe { ioctl(&self.file, Getter::<{ uapi::STATS }, Stats>::new()) }?)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
