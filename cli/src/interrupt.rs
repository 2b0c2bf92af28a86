//! Ctrl-C.

use std::future::Future;
use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Completes at the first SIGINT or SIGTERM. The second one ends the process at once with the exit
/// code a shell gives for SIGINT.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let (first, is_first) = oneshot::channel();
    tokio::spawn(async move {
        either(&mut int, &mut term).await;
        // The receiver may have finished by itself.
        let _ = first.send(());
        either(&mut int, &mut term).await;
        process::exit(130);
    });
    Ok(async move {
        let _ = is_first.await;
    })
}

async fn either(int: &mut Signal, term: &mut Signal) {
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
