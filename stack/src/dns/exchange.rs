//! One question to one server: a datagram, and a connection if that is needed.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use super::addresses::source_for;
use super::message::{MAX_UDP, Outcome, Query, Question, Reply};
use super::resolver::State;
use crate::{Stack, TcpStream, UdpSocket};

/// Wrong answers on one port after which somebody is guessing (RFC 5452 §9.3): the next guess meets
/// a TCP sequence number.
const MAX_MISMATCHES: u32 = 32;
/// Ports tried when one is in use.
const PORT_TRIES: u32 = 64;
/// Ports of questions; those below 1024 are for servers (RFC 6056 §3.2).
const FIRST_PORT: u16 = 1024;

/// What came of asking a server.
pub(crate) enum Asked {
    /// It answered.
    Outcome(Outcome),
    /// Nothing came in time.
    Silence,
    /// It, or the way to it, fails; why, as the end of a sentence about it.
    Failure(String),
}

/// Asks `server`; each of datagram and connection may take `timeout`.
///
/// # Errors
/// The stack has no socket or timer left, or has stopped.
pub(crate) async fn ask(
    stack: &Stack,
    state: &State,
    server: SocketAddr,
    question: &Question,
    timeout: Duration,
) -> io::Result<Asked> {
    let query = state.query(question);
    let reply = match limited(stack, timeout, datagram(stack, state, server, &query)).await? {
        Some(Err(error)) => return unless_local(error),
        Some(Ok(Some(reply))) => reply,
        Some(Ok(None)) => {
            state.count(|stats| stats.tcp_queries += 1);
            match limited(stack, timeout, stream(stack, server, &query)).await? {
                Some(Ok(reply)) => reply,
                Some(Err(error)) => return unless_local(error),
                None => return Ok(Asked::Failure("did not answer over TCP".to_owned())),
            }
        }
        None => return Ok(Asked::Silence),
    };
    Ok(match reply {
        Reply::Outcome(outcome) => Asked::Outcome(outcome),
        Reply::Failure(why) => Asked::Failure(why),
        Reply::Mismatch | Reply::OtherCase | Reply::Truncated => Asked::Silence,
    })
}

/// `None`: the time is over.
async fn limited<T>(
    stack: &Stack,
    timeout: Duration,
    future: impl Future<Output = T>,
) -> io::Result<Option<T>> {
    match stack.timeout(timeout, future).await {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error on the way to a server is the server's, unless no way would be better.
fn unless_local(error: io::Error) -> io::Result<Asked> {
    match error.kind() {
        io::ErrorKind::OutOfMemory | io::ErrorKind::NetworkDown => Err(error),
        _ => Ok(Asked::Failure(format!("cannot be asked: {error}"))),
    }
}

/// Asks by datagram. `None`: it has to be a connection.
async fn datagram(
    stack: &Stack,
    state: &State,
    server: SocketAddr,
    query: &Query,
) -> io::Result<Option<Reply>> {
    let socket = random_port(stack, state, server)?;
    state.count(|stats| stats.udp_queries += 1);
    socket.send_to_async(query.bytes(), server).await?;
    // One byte more shows what is too long.
    let mut buffer = vec![0; MAX_UDP + 1];
    let mut mismatches = 0;
    while mismatches < MAX_MISMATCHES {
        let (len, from) = socket.recv_from_async(&mut buffer).await?;
        let reply = match buffer.get(..len) {
            Some(message) if from == server => query.check(message),
            _ => Reply::Mismatch,
        };
        match reply {
            Reply::Mismatch => {
                mismatches += 1;
                state.count(|stats| stats.mismatches += 1);
            }
            Reply::OtherCase | Reply::Truncated => return Ok(None),
            _ if len > MAX_UDP => return Ok(None),
            Reply::Failure(_) | Reply::Outcome(_) => return Ok(Some(reply)),
        }
    }
    Ok(None)
}

/// A socket whose port nobody can guess, that hears only what is sent to the address asked from.
fn random_port(stack: &Stack, state: &State, server: SocketAddr) -> io::Result<UdpSocket> {
    let own = source_for(stack, server.ip())?;
    let mut tries = 0;
    loop {
        tries += 1;
        match UdpSocket::bind(stack, SocketAddr::new(own, state.random_port(FIRST_PORT))) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < PORT_TRIES => {}
            result => return result,
        }
    }
}

/// Asks over a connection (RFC 7766), with the length in front of each message.
async fn stream(stack: &Stack, server: SocketAddr, query: &Query) -> io::Result<Reply> {
    let stream = TcpStream::connect_async(stack, server).await?;
    let len = u16::try_from(query.bytes().len()).map_err(io::Error::other)?;
    write_all(&stream, &[&len.to_be_bytes(), query.bytes()].concat()).await?;
    let mut len = [0; 2];
    read_exact(&stream, &mut len).await?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    read_exact(&stream, &mut message).await?;
    // Politely; the answer is here.
    let _ = stream.shutdown(Shutdown::Write);
    Ok(query.check_stream(&message))
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| stream.poll_write_slice(cx, bytes)).await?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

async fn read_exact(stream: &TcpStream, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let read = poll_fn(|cx| stream.poll_read_slice(cx, buffer)).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(read..).unwrap_or_default();
    }
    Ok(())
}
