//! What the example programs share: where their stack is attached.

#![forbid(unsafe_code)]

use anyhow::Result;
use ipnet::IpNet;
use underpass::Stack;
use underpass_drivers::{AnyDevice, Spec};

/// The options that every example has.
#[derive(Clone, Debug, clap::Args)]
pub struct Attachment {
    /// Packet device, such as packet:eth1 or tap:tap0,host=10.7.0.1/24
    #[arg(long, value_name = "SPEC")]
    pub device: Spec,
    /// Address and prefix length of the stack; repeat it for several
    #[arg(long, value_name = "CIDR", required = true)]
    pub addr: Vec<IpNet>,
}

impl Attachment {
    /// Opens the device and starts a stack on it.
    pub fn stack(&self) -> Result<Stack> {
        let mut builder = Stack::builder();
        for address in &self.addr {
            builder = builder.address(*address);
        }
        Ok(builder.build(AnyDevice::open(&self.device)?)?)
    }
}
