//! The baseline: smoltcp as its manual says, one `SocketSet` for all sockets, on the same memory
//! link that the stack is measured on.

use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Instant as Clock;

use anyhow::{Context as _, Result, bail, ensure};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};
use underpass::devices::{
    Device, Instant, MemoryConfig, MemoryDevice, MemoryRx, MemoryTx, PartialChecksum, RxQueue,
    SegmentKind, Segmentation, TxMeta, TxQueue,
};

use crate::pair::{CLIENT, FIRST_PORT, SERVER};

const HEADERS: u16 = 14 + 20 + 20;
const FIRST_CLIENT_PORT: u16 = 10_000;
/// Polls of each end in which connections must have been opened and an echo must have come.
const PATIENCE: usize = 100_000;

/// One smoltcp station.
pub struct Station {
    interface: Interface,
    link: Link,
    /// All sockets of the station.
    pub sockets: SocketSet<'static>,
    clock: Clock,
}

/// A client and a server that share a thread.
pub struct PlainPair {
    /// The end that connects.
    pub client: Station,
    /// The end that accepts.
    pub server: Station,
}

/// Both ends of one connection.
#[derive(Clone, Copy, Debug)]
pub struct PlainFlow {
    /// The end that connected.
    pub client: SocketHandle,
    /// The end that accepted.
    pub server: SocketHandle,
}

impl PlainPair {
    /// Two stations on one link.
    pub fn new(config: MemoryConfig) -> Self {
        let (left, right) = MemoryDevice::pair(config);
        let clock = Clock::now();
        Self {
            client: Station::new(left, CLIENT.into(), clock),
            server: Station::new(right, SERVER.into(), clock),
        }
    }

    /// Opens `count` connections with buffers of `buffer` bytes in each direction.
    pub fn connect(&mut self, count: usize, buffer: usize) -> Result<Vec<PlainFlow>> {
        let remote = IpEndpoint::new(SERVER.into(), FIRST_PORT);
        ensure!(
            count < usize::from(u16::MAX - FIRST_CLIENT_PORT),
            "{count} connections need more than one server port"
        );
        let mut clients = Vec::with_capacity(count);
        for port in (FIRST_CLIENT_PORT..).take(count) {
            let mut listener = socket(buffer);
            listener.listen(FIRST_PORT)?;
            self.server.sockets.add(listener);
            let mut connecting = socket(buffer);
            connecting.connect(self.client.interface.context(), remote, port)?;
            clients.push(self.client.sockets.add(connecting));
        }
        for _ in 0..PATIENCE {
            self.client.poll()?;
            self.server.poll()?;
            if self.client.all_established() && self.server.all_established() {
                return self.matched(&clients);
            }
        }
        bail!("not all of {count} connections were established")
    }

    fn matched(&self, clients: &[SocketHandle]) -> Result<Vec<PlainFlow>> {
        let mut flows: Vec<_> = clients.iter().map(|client| (*client, None)).collect();
        for (handle, socket) in self.server.sockets.iter() {
            let smoltcp::socket::Socket::Tcp(socket) = socket;
            let peer = socket.remote_endpoint().context("a socket without a peer")?;
            let (_, server) = flows
                .get_mut(usize::from(peer.port - FIRST_CLIENT_PORT))
                .context("a connection nobody has opened")?;
            *server = Some(handle);
        }
        flows
            .into_iter()
            .map(|(client, server)| {
                Ok(PlainFlow { client, server: server.context("a connection without a server")? })
            })
            .collect()
    }

    /// Sends `message` from the client to the server and back; `buffer` is as long as it.
    pub fn echo(&mut self, flow: PlainFlow, message: &[u8], buffer: &mut [u8]) -> Result<()> {
        self.client.socket(flow.client).send_slice(message)?;
        for _ in 0..PATIENCE {
            self.client.poll()?;
            self.server.poll()?;
            if self.server.socket(flow.server).recv_queue() >= message.len() {
                break;
            }
        }
        let socket = self.server.socket(flow.server);
        let received = socket.recv_slice(buffer)?;
        socket.send_slice(&buffer[..received])?;
        for _ in 0..PATIENCE {
            self.server.poll()?;
            self.client.poll()?;
            if self.client.socket(flow.client).recv_queue() >= message.len() {
                self.client.socket(flow.client).recv_slice(buffer)?;
                return Ok(());
            }
        }
        bail!("no echo within {PATIENCE} polls")
    }
}

impl Station {
    fn new(device: MemoryDevice, address: std::net::IpAddr, clock: Clock) -> Self {
        let caps = device.caps();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(caps.mac.0)));
        config.random_seed = 7;
        let mut link = Link(device);
        let mut interface = Interface::new(config, &mut link, SmolInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let full = addresses.push(IpCidr::new(address.into(), 24));
            debug_assert_eq!(full, Ok(()));
        });
        Self { interface, link, sockets: SocketSet::new(Vec::new()), clock }
    }

    /// Takes a burst of frames, lets every socket send, rings the doorbell.
    pub fn poll(&mut self) -> Result<()> {
        let now = self.clock.elapsed();
        let time = Instant::from_nanos(now.as_nanos() as u64);
        let now = SmolInstant::from_micros(now.as_micros() as i64);
        self.link.0.split().0.fill(time)?;
        self.interface.poll(now, &mut self.link, &mut self.sockets);
        let (rx, tx) = self.link.0.split();
        rx.release();
        tx.flush(time)?;
        Ok(())
    }

    /// One of its sockets.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn all_established(&self) -> bool {
        self.sockets
            .iter()
            .all(|(_, smoltcp::socket::Socket::Tcp(socket))| socket.may_send() && socket.may_recv())
    }
}

fn socket(buffer: usize) -> Socket<'static> {
    let ring = || SocketBuffer::new(vec![0; buffer]);
    let mut socket = Socket::new(ring(), ring());
    socket.set_congestion_control(CongestionControl::Cubic);
    socket.set_nagle_enabled(false);
    socket
}

/// A memory device as smoltcp wants it.
struct Link(MemoryDevice);

struct RxToken<'a>(&'a [u8]);

struct TxToken<'a> {
    tx: &'a mut MemoryTx,
    meta: TxMeta,
}

impl smoltcp::phy::Device for Link {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let (rx, tx): (&mut MemoryRx, &mut MemoryTx) = self.0.split();
        if tx.room() == 0 {
            return None;
        }
        let frame = rx.next()?;
        Some((RxToken(frame.bytes), TxToken { tx, meta: TxMeta::default() }))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<TxToken<'_>> {
        let (_, tx) = self.0.split();
        (tx.room() > 0).then_some(TxToken { tx, meta: TxMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let caps = self.0.caps();
        let mut smoltcp = DeviceCapabilities::default();
        smoltcp.medium = Medium::Ethernet;
        smoltcp.max_transmission_unit = caps.max_frame();
        if let Some(longest) = caps.tx_segment_tcp4 {
            smoltcp.checksum = ChecksumCapabilities::ignored();
            smoltcp.checksum.ipv4 = Checksum::Both;
            smoltcp.segmentation.tcpv4 = NonZeroUsize::new(longest.min(65_535));
        }
        smoltcp
    }
}

impl smoltcp::phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl smoltcp::phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        // Both ways to get a token look for room first, and the capabilities are the device's own.
        self.tx.send(len, self.meta, write).expect("a free slot for a frame within the limits")
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        let size: Option<NonZeroU16> = meta.segmentation_offload_size;
        self.meta = size.map_or_else(TxMeta::default, |size| TxMeta {
            checksum: Some(PartialChecksum { start: HEADERS - 20, offset: 16 }),
            segmentation: Some(Segmentation { kind: SegmentKind::Tcp4, size, header_len: HEADERS }),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_echoes_its_own_bytes() {
        let mut pair = PlainPair::new(MemoryConfig::default());
        let flows = pair.connect(30, 4096).unwrap();
        for (n, flow) in flows.iter().enumerate() {
            let message = [n as u8; 64];
            let mut buffer = [0; 64];
            pair.echo(*flow, &message, &mut buffer).unwrap();
            assert_eq!(buffer, message);
        }
    }
}
