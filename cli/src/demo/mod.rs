//! `underpass demo`: every device that works here, measured against the kernel's own TCP, in private
//! network namespaces. It leaves nothing behind.

mod link;
mod measure;
mod sockets;
mod table;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use rand::Rng;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use underpass_drivers::lab::{Namespace, enter_user_namespace};

use crate::files::Root;
use link::{Link, OURS, PEER};
use measure::{Host, download, round_trips};
use sockets::{Kernel, Sockets};
use table::{Outcome, Row};

/// Bytes of the file that is transferred.
const FILE_LEN: usize = 64 << 20;

/// Measures all links and prints one table.
pub(crate) fn run(json: bool) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        enter_user_namespace().context("the demo needs a private network namespace")?;
    }
    let sample = Sample::new().context("writing a file of random bytes")?;
    let mut rows = Vec::new();
    for &link in Link::ALL {
        // Fresh namespaces for each, so that no link is in the way of another.
        let ours = Namespace::new().context("the demo needs a private network namespace")?;
        let peer = Namespace::new()?;
        let outcome = match link {
            Link::Kernel => {
                link::lay_kernel(&ours, &peer)?;
                measure(link, &Kernel::new(ours), &Kernel::new(peer), &sample)
            }
            Link::Packet => on_veth(link, "packet:veth0", &ours, peer, &sample)?,
            #[cfg(feature = "xdp")]
            Link::Xdp => on_veth(link, "xdp:veth0", &ours, peer, &sample)?,
            Link::Tap => match link::attach_tap(&ours)? {
                Ok(stack) => measure(link, &stack, &Kernel::new(ours), &sample),
                Err(reason) => Outcome::Unavailable(reason),
            },
        };
        rows.push(Row { link, outcome });
    }
    table::print(&rows, json);
    let proved = rows.iter().any(|row| {
        matches!(row.outcome, Outcome::Measured(_)) && !matches!(row.link, Link::Kernel)
    });
    let failed = rows.iter().any(|row| matches!(row.outcome, Outcome::Failed(_)));
    Ok(if proved && !failed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Our stack at one end of a veth pair, the kernel at the other.
fn on_veth(
    link: Link,
    spec: &str,
    ours: &Namespace,
    peer: Namespace,
    sample: &Sample,
) -> Result<Outcome> {
    Ok(match link::attach_veth(ours, &peer, spec)? {
        Ok(stack) => measure(link, &stack, &Kernel::new(peer), sample),
        Err(reason) => Outcome::Unavailable(reason),
    })
}

/// A directory with one file of random bytes.
struct Sample {
    dir: TempDir,
    sha256: [u8; 32],
}

impl Sample {
    const NAME: &'static str = "random.bin";

    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut bytes = vec![0; FILE_LEN];
        rand::rng().fill_bytes(&mut bytes);
        File::create(dir.path().join(Self::NAME))?.write_all(&bytes)?;
        let sha256 = Sha256::digest(&bytes).into();
        Ok(Self { dir, sha256 })
    }
}

fn measure(link: Link, ours: &impl Sockets, peer: &impl Sockets, sample: &Sample) -> Outcome {
    match try_measure(link, ours, peer, sample) {
        Ok(figures) => Outcome::Measured(figures),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn try_measure(
    link: Link,
    ours: &impl Sockets,
    peer: &impl Sockets,
    sample: &Sample,
) -> Result<table::Figures> {
    let root = Arc::new(Root::open(sample.dir.path())?);
    let our_host = Host::start(ours.clone(), OURS, Arc::clone(&root))?;
    let peer_host = Host::start(peer.clone(), PEER, root)?;
    let figures = table::Figures {
        serving: download(peer, OURS, sample, &format!("{link} serving"))
            .context("the kernel downloads from us")?,
        fetching: download(ours, PEER, sample, &format!("{link} fetching"))
            .context("we download from the kernel")?,
        round_trips: round_trips(ours, PEER).context("round trips")?,
    };
    peer_host.stop()?;
    our_host.stop()?;
    Ok(figures)
}
