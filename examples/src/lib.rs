//! What the example programs share: where their stack is attached, and Ctrl-C.

#![forbid(unsafe_code)]

use std::process;

use anyhow::{Context, Result};
use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use ipnet::IpNet;
use underpass::{Builder, Interface, Shard, Stack};
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
        Ok(self.builder().build(AnyDevice::open(&self.device)?)?)
    }

    /// The same; of the device `memory:`, with a second stack at its other end.
    pub fn stacks(&self) -> Result<(Stack, Option<Stack>)> {
        let Spec::Memory(config) = &self.device else {
            return Ok((self.stack()?, None));
        };
        let (near, far) = AnyDevice::memory_pair(*config);
        let peer = Stack::builder().address(IpNet::new([169, 254, 0, 2].into(), 16)?);
        Ok((self.builder().build(near)?, Some(peer.build(far)?)))
    }

    /// Opens `count` queues of the device, for a stack whose shards the caller runs.
    pub fn shards(&self, count: usize) -> Result<(Stack, Vec<Shard<AnyDevice>>)> {
        let queues = AnyDevice::open_queues(&self.device, count)?;
        Ok(self.builder().build_shards([Interface::with_queues(queues)])?)
    }

    fn builder(&self) -> Builder {
        self.addr.iter().fold(Stack::builder(), |builder, address| builder.address(*address))
    }
}

/// Completes at Ctrl-C, as all of its clones do, on any thread and any runtime. The second Ctrl-C ends
/// the process at once.
pub fn interrupted() -> Result<impl FusedFuture<Output = ()> + Clone + Send + Sync + Unpin> {
    let (running, stopped) = oneshot::channel::<()>();
    let mut running = Some(running);
    ctrlc::set_handler(move || match running.take() {
        Some(running) => drop(running),
        None => process::exit(130),
    })
    .context("taking Ctrl-C")?;
    Ok(stopped.map(drop).shared())
}
