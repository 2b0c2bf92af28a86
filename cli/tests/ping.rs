//! The kernel pings us, and `underpass ping` pings the kernel.

#![forbid(unsafe_code)]

mod common;

use common::Lab;

on_every_link! {
    the_kernel_hears_us,
    we_hear_the_kernel,
    silence_is_a_failure,
    results_can_be_read_by_programs,
}

fn the_kernel_hears_us(lab: &Lab) {
    let _server = lab.serve(&["echo"]);
    for arguments in [
        &["10.7.0.2"][..],
        &["-6", "fd07::2"],
        // Fragments, both ways.
        &["-s", "3000", "10.7.0.2"],
        &["-6", "-s", "3000", "fd07::2"],
    ] {
        let all = [&["-c3", "-i0.2", "-W5"], arguments].concat();
        let text = lab.peer_ok("ping", &all);
        assert!(text.contains(" 3 received, 0% packet loss"), "{arguments:?}: {text}");
    }
}

fn we_hear_the_kernel(lab: &Lab) {
    for (host, arguments) in [
        ("10.7.0.1", &[][..]),
        ("fd07::1", &[]),
        ("10.7.0.1", &["-s", "3000"]),
        ("fd07::1", &["-s", "3000"]),
    ] {
        let all = [&["ping", host, "-c", "3", "-i", "0.1"], arguments].concat();
        let output = lab.run(&all);
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{all:?}: {text}{error}");
        assert!(text.contains(&format!("bytes from {host}: icmp_seq=3 ttl=64 time=")), "{text}");
        assert!(text.contains("3 packets transmitted, 3 received, 0% packet loss"), "{text}");
        assert!(text.contains("rtt min/avg/max/mdev = "), "{text}");
    }
}

fn silence_is_a_failure(lab: &Lab) {
    let output = lab.run(&["ping", "10.7.0.77", "-c", "2", "-i", "0.1"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("2 packets transmitted, 0 received, 100% packet loss"), "{text}");
}

fn results_can_be_read_by_programs(lab: &Lab) {
    let output = lab.run(&["ping", "10.7.0.1", "-c", "2", "-i", "0.1", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, second, summary] = &lines[..] else {
        panic!("{text}");
    };
    assert_eq!((&first["seq"], &second["seq"]), (&1.into(), &2.into()));
    assert_eq!((&first["from"], &first["bytes"]), (&"10.7.0.1".into(), &64.into()));
    assert_eq!((&summary["transmitted"], &summary["received"]), (&2.into(), &2.into()));
}
