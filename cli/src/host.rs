//! Hosts by name or address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Error, Result};
use underpass::{DnsError, Stack, TcpStream};

/// A TCP connection to a host.
pub(crate) async fn connect(stack: &Stack, host: &str, port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect_host_async(stack, host, port).await;
    stream.map_err(with_remedy).with_context(|| match host.parse() {
        Ok(ip) => format!("connecting to {}", SocketAddr::new(ip, port)),
        Err(_) => format!("connecting to {host}:{port}"),
    })
}

/// The address of a host to try first.
pub(crate) async fn address(stack: &Stack, host: &str) -> Result<IpAddr> {
    let addresses = stack.lookup_host(host, 0).await.map_err(with_remedy)?;
    Ok(addresses.first().context("the name has no address")?.ip())
}

/// Adds what to do about it, if that is an option of the command.
pub(crate) fn with_remedy(error: io::Error) -> Error {
    match error.downcast::<DnsError>() {
        Ok(error @ DnsError::NoServer(_)) => {
            Error::msg(format!("{error}; add --dns IP, or the name to --hosts FILE"))
        }
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}
