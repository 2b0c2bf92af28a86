//! One connection over a link in memory, both ends on this thread.

use std::time::{Duration, Instant as Clock};

use anyhow::{Result, ensure};
use underpass::Limits;
use underpass::devices::MemoryConfig;
use underpass_benches::pair::{Pair, ready};
use underpass_benches::plain::PlainPair;

/// Bytes that the application writes and reads at a time.
const CHUNK: usize = 64 * 1024;
/// Frame buffers per direction.
const SLOTS: usize = 512;
/// Time before the clock starts, for neighbours and slow start.
const WARM_UP: Duration = Duration::from_millis(100);

/// Gbit/s of two stacks.
pub(crate) fn stack(offload: bool, buffer: usize, time: Duration) -> Result<f64> {
    let mut limits = Limits::default();
    limits.send_buffer = buffer;
    limits.recv_buffer = buffer;
    let mut pair = Pair::new(link(offload), &limits)?;
    let flows = pair.connect(1)?;
    let flow = &flows[0];
    let mut application = Application::new();
    measured(time, || {
        while ready(flow.client.write_with(|space| twice(application.write(space))))?.is_some() {}
        pair.turn_client()?;
        pair.turn_server()?;
        let mut received = 0;
        while let Some(count) =
            ready(flow.server.read_with(|bytes| twice(application.read(bytes))))?
        {
            ensure!(count > 0, "the connection has ended");
            received += count;
        }
        Ok(received)
    })
}

/// Gbit/s of two bare smoltcp stations.
pub(crate) fn plain(offload: bool, buffer: usize, time: Duration) -> Result<f64> {
    let mut pair = PlainPair::new(link(offload));
    let flows = pair.connect(1, buffer)?;
    let flow = flows[0];
    if offload {
        // Its delayed acknowledgement would make the sender wait after every superframe.
        pair.server.socket(flow.server).set_ack_delay(None);
    }
    let mut application = Application::new();
    measured(time, || {
        let socket = pair.client.socket(flow.client);
        while socket.can_send() {
            socket.send(|space| twice(application.write(space)))?;
        }
        pair.client.poll()?;
        pair.server.poll()?;
        let socket = pair.server.socket(flow.server);
        let mut received = 0;
        while socket.can_recv() {
            received += socket.recv(|bytes| twice(application.read(bytes)))?;
        }
        Ok(received)
    })
}

fn link(offloads: bool) -> MemoryConfig {
    MemoryConfig { slots: SLOTS, offloads, ..MemoryConfig::default() }
}

/// Calls `step`, which returns the bytes received, until the time is over: Gbit/s.
fn measured(time: Duration, mut step: impl FnMut() -> Result<usize>) -> Result<f64> {
    let warm_up = Clock::now();
    while warm_up.elapsed() < WARM_UP {
        step()?;
    }
    let start = Clock::now();
    let mut received = 0;
    while start.elapsed() < time {
        received += step()?;
    }
    Ok(received as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9)
}

/// Copies to and from buffers of its own, as applications do.
struct Application {
    source: Vec<u8>,
    sink: Vec<u8>,
}

impl Application {
    fn new() -> Self {
        Self { source: vec![7; CHUNK], sink: vec![0; CHUNK] }
    }

    fn write(&self, space: &mut [u8]) -> usize {
        let len = space.len().min(CHUNK);
        space[..len].copy_from_slice(&self.source[..len]);
        len
    }

    fn read(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(CHUNK);
        self.sink[..len].copy_from_slice(&bytes[..len]);
        std::hint::black_box(&self.sink);
        len
    }
}

/// What a lending call wants: bytes done, and the result.
fn twice(len: usize) -> (usize, usize) {
    (len, len)
}
