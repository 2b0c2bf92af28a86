//! Connects standard input and output to a TLS server, with rustls on the stack's TCP.
//!
//! ```console
//! # tls_client --device packet:eth1 --addr 10.0.0.2/24 --ca ca.pem --name www.test 10.0.0.1:443
//! ```

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::io::{AsyncWriteExt, copy, split, stdin, stdout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use underpass::TcpStream;
use underpass_examples::Attachment;

/// Connects standard input and output to a TLS server
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    attachment: Attachment,
    /// Certificates to trust, in PEM
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Name that the server's certificate must be for
    #[arg(long, value_parser = |name: &str| ServerName::try_from(name.to_owned()))]
    name: ServerName<'static>,
    /// Address and port of the server
    server: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let file = || format!("--ca {}", args.ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&args.ca).with_context(file)? {
        roots.add(certificate.with_context(file)?).with_context(file)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(config));

    let stack = args.attachment.stack()?;
    let connecting = || format!("connecting to {}", args.server);
    let stream = TcpStream::connect_async(&stack, args.server).await.with_context(connecting)?;
    let stream = tls.connect(args.name, stream).await.with_context(connecting)?;

    let (mut from_server, mut to_server) = split(stream);
    let send = async {
        copy(&mut stdin(), &mut to_server).await?;
        to_server.shutdown().await
    };
    let mut output = stdout();
    let receive = async {
        copy(&mut from_server, &mut output).await?;
        output.flush().await
    };
    tokio::try_join!(send, receive)?;
    Ok(())
}
