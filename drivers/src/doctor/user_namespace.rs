use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::Status;
use crate::lab::user_namespace_obstacle;

/// Makes a user namespace, and a network namespace in it, in a child process: the calling one may
/// have several threads, and would have to stay inside.
pub(super) fn try_user_namespace() -> Status {
    // SAFETY: the child makes two system calls and exits, all of them async-signal-safe: it takes
    // no lock and allocates nothing.
    let child = match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => child,
        Ok(ForkResult::Child) => {
            let result =
                unshare(CloneFlags::CLONE_NEWUSER).and_then(|()| unshare(CloneFlags::CLONE_NEWNET));
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(result.err().map_or(0, |errno| errno as i32)) }
        }
        Err(errno) => {
            return Status::Untried { reason: format!("starting a process: {errno}") };
        }
    };
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, 0)) => Status::Works {
            detail: "a user namespace with a network of its own was made: labs need no root"
                .to_owned(),
        },
        Ok(WaitStatus::Exited(_, errno)) => Status::Missing {
            cause: Errno::from_raw(errno).desc().to_owned(),
            remedy: user_namespace_obstacle(Errno::from_raw(errno)),
        },
        Ok(status) => {
            Status::Untried { reason: format!("the process that tried it ended with {status:?}") }
        }
        Err(errno) => {
            Status::Untried { reason: format!("waiting for the process that tried it: {errno}") }
        }
    }
}
