use underpass_devices::Selector;
use underpass_protocols::Protocol;

use super::Stack;
use crate::core::AttachError;
use crate::socket::ProtocolHandle;

impl Stack {
    /// Runs a protocol beside TCP and UDP: frames that `selector` matches are lent to it, and what it
    /// sends is written where the device takes it from. It is detached when the last clone of the handle
    /// is dropped.
    ///
    /// `selector` is an EtherType, one on a VLAN, an IP protocol, or a UDP port; the last two of one
    /// address of the stack, or of any. Devices that share their interface with the kernel are asked for
    /// what comes to the stack's addresses.
    ///
    /// It runs on the first shard; what arrives on others is handed over. Raw sockets of its IP protocol
    /// go on getting copies.
    ///
    /// ```
    /// use underpass::devices::MemoryDevice;
    /// use underpass::protocols::header::Header;
    /// use underpass::protocols::probe::{Outcome, Probe, ProbeConfig, ProbeHeader, Request};
    /// use underpass::Stack;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (left, right) = MemoryDevice::pair(Default::default());
    /// let left = Stack::builder().address("10.0.0.1/24".parse()?).build(left)?;
    /// let right = Stack::builder().address("10.0.0.2/24".parse()?).build(right)?;
    ///
    /// let _answers = right.attach(ProbeHeader::SELECTOR, Probe::new(ProbeConfig::default()))?;
    /// let probe = left.attach(ProbeHeader::SELECTOR, Probe::new(ProbeConfig::default()))?;
    /// probe.with(|probe| probe.request(Request::to([10, 0, 0, 2].into())))?;
    /// let result = probe.wait(Probe::result)?;
    /// assert!(matches!(result.outcome, Outcome::Reply { hops_there: 0, .. }));
    /// # Ok(())
    /// # }
    /// ```
    pub fn attach<P: Protocol>(
        &self,
        selector: Selector,
        protocol: P,
    ) -> Result<ProtocolHandle<P>, AttachError> {
        let id = self.shard().with(|core| core.attach(selector, Box::new(protocol)))?;
        Ok(ProtocolHandle::new(self.clone(), id))
    }
}
