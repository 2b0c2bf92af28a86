//! The command over the ring of our kernel module, with the kernel on the same interface. It runs in
//! the guest, which has the module: `cargo xtask guest test kmod`.

#![cfg(feature = "kring")]
#![forbid(unsafe_code)]

mod common;

mod guest {
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::common::{KERNEL, Lab, NGINX, OURS, large, nginx_command, sha256};

    /// Addresses of the command and of the kernel at the same end.
    const PINGED: [&str; 4] = ["10.7.0.2", "fd07::2", "10.7.0.3", "fd07::3"];

    fn fetch(lab: &Lab, host: &str, file: &str) -> [u8; 32] {
        let url = format!("http://{host}/random.bin");
        lab.peer_ok("curl", &["-gsSf", "--max-time", "120", "-o", file, &url]);
        let received = lab.dir.path().join(file);
        let sum = sha256(&received);
        // The guest keeps files in its memory.
        std::fs::remove_file(received).unwrap();
        sum
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn the_kernel_serves_on_the_same_interface_at_the_same_time() {
        let lab = Lab::kring();
        let sent = sha256(&lab.random_file("random.bin", large()));
        let _ours = lab.serve(&["http-serve", "--root", "."]);
        let _kernel = lab.our_server(nginx_command(&lab), NGINX.parse().unwrap());
        let kernel = KERNEL.map(|host| format!("{host}:8080"));
        for (ours, kernel) in OURS.iter().zip(&kernel) {
            thread::scope(|scope| {
                for (host, file) in [(*ours, "ours"), (kernel, "kernel")] {
                    let lab = &lab;
                    scope.spawn(move || assert_eq!(fetch(lab, host, file), sent, "{host}"));
                }
            });
        }
        for host in PINGED {
            lab.peer_ok("ping", &["-c", "3", "-i", "0.2", "-W", "5", host]);
        }
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn without_offloads_and_with_a_thread_of_the_kernels() {
        let mut lab = Lab::kring();
        lab.set_spec("kring:veth0,offload=off,tx-poll=100,only=tcp/80");
        let sent = sha256(&lab.random_file("random.bin", 8 << 20));
        let _server = lab.serve(&["http-serve", "--root", "."]);
        for host in OURS {
            assert_eq!(fetch(&lab, host, "received"), sent, "{host}");
        }
    }

    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn a_download_through_the_ring() {
        let lab = Lab::kring();
        let sent = sha256(&lab.random_file("random.bin", large()));
        let _peer = lab.peer_server(nginx_command(&lab), NGINX.parse().unwrap());
        let url = "http://10.7.0.1:8080/random.bin";
        let output = lab.run_ours(lab.underpass(&["http-get", url, "--output", "received"]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sha256(&lab.dir.path().join("received")), sent);
    }

    /// Killed with its ring open, the command leaves an interface that the next one can take.
    #[test]
    #[ignore = "needs the guest: run by cargo xtask guest test kmod"]
    fn a_command_that_is_killed_leaves_nothing_behind() {
        let lab = Lab::kring();
        for _ in 0..3 {
            let server = lab.serve(&["http-serve", "--root", "."]);
            lab.peer_ok("ping", &["-c", "1", "-W", "5", "10.7.0.2"]);
            server.kill();
        }
        // The last packets may still be on their way.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !Command::new("rmmod").arg("underpass_ring").status().unwrap().success() {
            assert!(Instant::now() < deadline, "the module is in use");
            thread::sleep(Duration::from_millis(20));
        }
        let output = lab.run_ours(lab.underpass(&["http-serve", "--root", "."]));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            error.contains("kring:veth0: the kernel lacks our module underpass_ring"),
            "{error}"
        );
        let module = std::env::var("MODULE").unwrap();
        assert!(Command::new("insmod").arg(module).status().unwrap().success());
    }
}
