//! Sends back whatever arrives: blocking sockets, one thread per connection.
//!
//! ```console
//! # echo_server --device tap:tap0,host=10.7.0.1/24 --addr 10.7.0.2/24
//! $ nc 10.7.0.2 7
//! ```

#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::thread;

use anyhow::Result;
use clap::Parser;
use underpass::TcpListener;
use underpass_examples::Attachment;

/// Sends back whatever arrives
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// TCP port
    #[arg(long, default_value_t = 7)]
    port: u16,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let stack = args.attachment.stack()?;
    // The unspecified IPv6 address takes IPv4 connections, too.
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port));
    let listener = TcpListener::bind(&stack, address)?;
    println!("listening on port {}", args.port);
    loop {
        let (stream, peer) = listener.accept()?;
        println!("{peer} has connected");
        thread::spawn(move || match io::copy(&mut &stream, &mut &stream) {
            Ok(bytes) => println!("{peer}: {bytes} bytes"),
            Err(error) => println!("{peer}: {error}"),
        });
    }
}
