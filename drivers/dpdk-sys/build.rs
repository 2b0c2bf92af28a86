//! Finds libdpdk by pkg-config, compiles the functions that its headers define inline, and has
//! bindgen read the rest.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "libdpdk")]
    libdpdk::bind();
}

#[cfg(feature = "libdpdk")]
mod libdpdk {
    use std::env;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// Debian 12 has this one.
    const OLDEST: &str = "22.11";
    /// The poll-mode drivers are loaded by the EAL. `rte_net_ring` alone is one that is called.
    const LIBRARIES: [&str; 7] =
        ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_net", "rte_net_ring"];
    const FUNCTIONS: &str = "up_.*\
        |rte_(openlog_stream|strerror|version)\
        |rte_eal_(init|hotplug_add|hotplug_remove|has_hugepages|alarm_set)\
        |rte_thread_(register|unregister)\
        |rte_pktmbuf_(pool_create|free_bulk)\
        |rte_mempool_(free|in_use_count)\
        |rte_eth_dev_(configure|start|stop|close|info_get|get_port_by_name|is_removed)\
        |rte_eth_dev_(adjust_nb_rx_tx_desc|get_mtu|set_mtu)\
        |rte_eth_(rx|tx)_queue_setup\
        |rte_eth_(macaddr_get|promiscuous_enable|allmulticast_enable|stats_get)\
        |rte_eth_from_rings|rte_ring_(create|free)";
    const TYPES: &str = "up_mbuf|rte_eth_(conf|dev_info|rxconf|txconf|stats)";
    /// Known by their address alone.
    const OPAQUE: &str = "rte_(mbuf|mempool|ring|device)|_IO_FILE";
    const VALUES: &str = "UP_.*|RTE_LOG_ERR|RTE_PKTMBUF_HEADROOM|SOCKET_ID_ANY";

    pub(crate) fn bind() {
        println!("cargo::rerun-if-changed=src/shim.c");
        println!("cargo::rerun-if-changed=src/shim.h");
        let library = pkg_config::Config::new()
            .atleast_version(OLDEST)
            .cargo_metadata(false)
            .probe("libdpdk")
            .unwrap_or_else(|error| {
                panic!("DPDK {OLDEST} or newer is needed (apt-get install libdpdk-dev): {error}")
            });
        let flags = compiler_flags();
        compile(&flags);
        generate(&flags);
        for path in &library.link_paths {
            println!("cargo::rustc-link-search=native={}", path.display());
        }
        for library in LIBRARIES {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }

    /// What `pkg-config --cflags` says, `-include rte_config.h` and `-march` included, which the crate
    /// of that name leaves out.
    fn compiler_flags() -> Vec<String> {
        let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
        let output = Command::new(&program).args(["--cflags", "libdpdk"]).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }

    fn compile(flags: &[String]) {
        let mut compiler = cc::Build::new();
        // On the data path, in a debug build as well.
        compiler.file("src/shim.c").opt_level(3);
        for flag in flags {
            compiler.flag(flag);
        }
        compiler.compile("underpass_dpdk_shim");
    }

    fn generate(flags: &[String]) {
        let bindings = bindgen::Builder::default()
            .header("src/shim.h")
            .clang_args(flags)
            .allowlist_function(FUNCTIONS)
            .allowlist_type(TYPES)
            .allowlist_var(VALUES)
            .opaque_type(OPAQUE)
            .derive_default(true)
            // Doxygen is no rustdoc.
            .generate_comments(false)
            .generate()
            .unwrap_or_else(|error| panic!("bindgen on the headers of DPDK: {error}"));
        let path = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        let file = Path::new(&path).join("bindings.rs");
        bindings.write_to_file(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
