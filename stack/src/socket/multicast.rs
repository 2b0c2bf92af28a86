//! Multicast groups of UDP sockets.

use std::io;
use std::net::IpAddr;

use super::UdpSocket;

impl UdpSocket {
    /// Receives what is sent to `group` and the socket's port, until the socket leaves the group or
    /// is closed. `interface` counts from 0 in the order of the builder; `None` is the one that
    /// packets to the group leave by. Routers and switches on that link are told (IGMPv3, MLDv2).
    ///
    /// # Errors
    /// `InvalidInput`: no group, or no such interface. `AlreadyExists`: this socket has joined it.
    /// `OutOfMemory`: the interface has too many groups.
    pub fn join_multicast(&self, group: IpAddr, interface: Option<usize>) -> io::Result<()> {
        self.with(|core, id| {
            core.check_running()?;
            let joined = &core.udp.socket(id).groups;
            if joined.iter().any(|(g, i)| *g == group && interface.is_none_or(|i2| i2 == *i)) {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("the socket is a member of {group} already"),
                ));
            }
            io::Result::Ok(())
        })?;
        // The first shard has the memberships of the stack.
        let first = self.stack().shard();
        let interface = first.with(|core| core.net.join(core.now, group, interface))?;
        self.with(|core, id| core.udp.socket(id).groups.push((group, interface)));
        Ok(())
    }

    /// Leaves a group again. `interface` is as it was for
    /// [`join_multicast`](Self::join_multicast).
    ///
    /// # Errors
    /// `NotFound`: the socket is no member.
    pub fn leave_multicast(&self, group: IpAddr, interface: Option<usize>) -> io::Result<()> {
        let left = self.with(|core, id| {
            let groups = &mut core.udp.socket(id).groups;
            let wanted = |(g, i): &(IpAddr, usize)| {
                *g == group && interface.is_none_or(|interface| interface == *i)
            };
            let at = groups.iter().position(wanted)?;
            Some(groups.swap_remove(at))
        });
        let Some((group, interface)) = left else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the socket is no member of {group}"),
            ));
        };
        self.stack().shard().with(|core| core.net.leave(core.now, group, interface));
        Ok(())
    }
}
