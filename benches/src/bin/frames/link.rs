//! The link of one measurement. A veth pair has the device at one end, generator or nobody at the other;
//! a TAP interface is the kernel's end of its device.

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
const PEER: &str = "peer";

/// Two namespaces and the link between them.
pub(crate) struct Link {
    /// Where the device is opened.
    pub(crate) own: Namespace,
    /// Where the generator is, if it is not there, too.
    peer: Option<Namespace>,
}

impl Link {
    /// A namespace for a device that makes its own interface, which has to be called [`OWN`].
    pub(crate) fn tap() -> Result<Self> {
        Ok(Self { own: Namespace::new()?, peer: None })
    }

    pub(crate) fn veth() -> Result<Self> {
        let (own, peer) = (Namespace::new()?, Namespace::new()?);
        veth((&own, OWN), (&peer, PEER))?;
        // A veth takes what the generator sends if the receiving end has an XDP program or GRO.
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-K", OWN, "gro", "on"]);
        let output = own
            .run(|| ethtool.output())
            .context("running ethtool, which switches a veth's GRO on (Debian: ethtool)")?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ethtool -K {OWN} gro on: {message}");
        Ok(Self { own, peer: Some(peer) })
    }

    /// Where frames for the device are sent: the namespace, and the interface there.
    pub(crate) fn generator(&self) -> (&Namespace, &'static str) {
        self.peer.as_ref().map_or((&self.own, OWN), |peer| (peer, PEER))
    }

    /// Address of the device.
    pub(crate) fn own_address(&self) -> Result<MacAddr> {
        if self.peer.is_none() {
            // Nobody asks for that of a TAP.
            return Ok(MacAddr::local(2));
        }
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
        // What a TAP's device receives has left the kernel's end.
        let count = if self.peer.is_none() { count.of_other_end() } else { count };
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

impl Count {
    fn of_other_end(self) -> Self {
        match self {
            Self::Arrived => Self::Sent,
            Self::Sent => Self::Arrived,
        }
    }
}
