//! A veth pair for one measurement: the device at one end, generator or nobody at the other.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context as _, Result, ensure};
use underpass::devices::MacAddr;
use underpass_drivers::lab::{Namespace, veth};

/// The interface whose frames a contender receives or sends.
pub(crate) const OWN: &str = "own";
/// The other end.
pub(crate) const PEER: &str = "peer";

/// Two namespaces and the link between them.
pub(crate) struct Link {
    pub(crate) own: Namespace,
    pub(crate) peer: Namespace,
}

impl Link {
    pub(crate) fn new() -> Result<Self> {
        let link = Self { own: Namespace::new()?, peer: Namespace::new()? };
        veth((&link.own, OWN), (&link.peer, PEER))?;
        // A veth takes what the generator sends if the receiving end has an XDP program or GRO.
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-K", OWN, "gro", "on"]);
        let output = link
            .own
            .run(|| ethtool.output())
            .context("running ethtool, which switches a veth's GRO on (Debian: ethtool)")?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ethtool -K {OWN} gro on: {message}");
        Ok(link)
    }

    /// Address of the device's end.
    pub(crate) fn own_address(&self) -> Result<MacAddr> {
        let link = self.own.netlink(|netlink| netlink.link(OWN))?;
        link.mac.context("a veth has an address")
    }

    /// Frames per second that leave the device's end during `time`.
    pub(crate) fn sent_per_second(&self, time: Duration) -> Result<f64> {
        let sleep = || {
            thread::sleep(time);
            Ok(())
        };
        Ok(self.per_second(Count::Sent, sleep)?.1)
    }

    /// Calls `work`; its result, and how many frames per second the device's interface has counted
    /// meanwhile.
    pub(crate) fn per_second<T>(
        &self,
        count: Count,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, f64)> {
        let (start, before) = (Clock::now(), self.counted(count)?);
        let result = work()?;
        let (end, after) = (Clock::now(), self.counted(count)?);
        Ok((result, (after - before) as f64 / (end - start).as_secs_f64()))
    }

    /// The interface's counter (proc_pid_net(5)).
    fn counted(&self, count: Count) -> Result<u64> {
        let table = self.own.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let count = table.lines().find_map(|line| {
            let (name, counts) = line.split_once(':')?;
            (name.trim() == OWN).then(|| counts.split_whitespace().nth(count as usize))?
        });
        let number = count.and_then(|text| text.parse().ok());
        number.context("/proc/net/dev has changed")
    }
}

/// What an interface counts; the number is that of the column behind its name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    /// Frames that have arrived, whether somebody took them or not.
    Arrived = 1,
    /// Frames that have left.
    Sent = 9,
}
