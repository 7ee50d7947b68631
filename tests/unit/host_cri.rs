//! The CRI client against a containerd of the test's own, if the machine has one installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nodectl::host::cri::{Cri, Ending};

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/wait.rs"]
mod wait;
use wait::wait_for;

const FLANNEL: &str = r#"{"cniVersion":"0.3.1","name":"cbr0","plugins":[
 {"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

struct Containerd {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Containerd {
    /// Everything of it lies in a directory, and it runs in namespaces of this thread's own.
    fn start() -> Option<Containerd> {
        if !nodectl::host::run::installed("containerd") {
            eprintln!("containerd is not installed: nothing was tried");
            return None;
        }
        namespace::enter();
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("net.d")).unwrap();
        std::fs::create_dir(at("bin")).unwrap();
        let config = format!(
            r#"version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{0}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
disable_cgroup = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{0}/net.d"
bin_dir = "{0}/bin"
"#,
            directory.path().display()
        );
        std::fs::write(at("config.toml"), config).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("containerd")
            .args(["--config", at("config.toml").to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Containerd { child, directory })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self) -> Cri {
        let cri = Cri::connect(&self.path("containerd.sock")).unwrap();
        // Connected with the first call, and again with each until the runtime is there.
        wait_for(|| cri.version().is_ok());
        cri
    }
}

#[test]
fn containerd_tells_its_network_and_where_it_looks() {
    let Some(containerd) = Containerd::start() else { return };
    let cri = containerd.client();
    assert_eq!(cri.version().unwrap().0, "containerd");
    let before = cri.status().unwrap();
    assert_eq!((before.ready, before.network), (false, None));
    nodectl::host::files::write_atomic(&containerd.path("net.d/10-flannel.conflist"), FLANNEL.as_bytes(), 0o644)
        .unwrap();
    // Seen without a restart: the temporary file was in the same directory.
    wait_for(|| cri.status().unwrap().ready);
    let status = cri.status().unwrap();
    assert_eq!((status.network.as_deref(), status.plugins), (Some("cbr0"), vec!["flannel".into(), "portmap".into()]));
    assert_eq!(status.conf_dir.as_deref().map(Path::new), Some(containerd.path("net.d").as_path()));
    assert_eq!(status.bin_dirs, [containerd.path("bin").to_str().unwrap()]);
    let (runtime, _) = cri.observe().unwrap();
    assert!(runtime.sandboxes.is_empty() && runtime.images.is_empty() && runtime.network_ready);
    assert!(cri.containers().unwrap().is_empty());
    // What is not there is ended already, whether the release answers OK or NotFound.
    cri.stop_sandbox("none").unwrap();
    cri.remove_sandbox("none").unwrap();
    let ending = Ending { sandbox: "none".into(), containers: vec![("none".into(), 0)] };
    assert!(cri.stop_sandboxes(&[ending]).into_iter().all(|answer| answer.is_ok()));
}

#[test]
fn a_runtime_that_is_not_there_is_an_error_in_a_sentence() {
    let cri = Cri::connect(Path::new("/nonexistent/containerd.sock")).unwrap();
    let error = format!("{:#}", cri.version().unwrap_err());
    assert!(error.contains("the runtime at /nonexistent/containerd.sock refused Version"), "{error}");
}
