//! The systemd adapter against a stand-in on a message bus of its own, in a mount namespace of the test thread's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nodectl::facts::Unit;
use nodectl::host::systemd;
use zbus::object_server::SignalEmitter;
use zbus::{ObjectPath, OwnedObjectPath, fdo, interface};

#[path = "support/wait.rs"]
mod wait;
use wait::wait_for;

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>"#;

type States = Arc<Mutex<BTreeMap<String, String>>>;

struct Manager {
    states: States,
}

struct UnitObject {
    name: String,
    states: States,
}

impl Manager {
    /// Ends a job a little later with this result; the unit's state changes before that.
    fn later(&self, emitter: SignalEmitter<'_>, name: &str, state: &str, result: &'static str) -> OwnedObjectPath {
        let job = ObjectPath::try_from("/org/freedesktop/systemd1/job/7").unwrap().to_owned();
        let (emitter, states) = (emitter.to_owned(), Arc::clone(&self.states));
        let (name, state, path) = (name.to_owned(), state.to_owned(), job.clone());
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            states.lock().unwrap().insert(name.clone(), state);
            zbus::block_on(async {
                // Other jobs end too.
                let other = ObjectPath::try_from("/org/freedesktop/systemd1/job/6").unwrap();
                Manager::job_removed(&emitter, 6, other, &name, "failed").await.unwrap();
                Manager::job_removed(&emitter, 7, path, &name, result).await.unwrap();
            });
        });
        job.into()
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn subscribe(&self) {}
    async fn reload(&self) {}

    async fn load_unit(&self, name: &str) -> OwnedObjectPath {
        let path = format!("/unit/{}", name.replace(['.', '-'], "_"));
        ObjectPath::try_from(path).unwrap().to_owned().into()
    }

    async fn start_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<OwnedObjectPath> {
        match name {
            "kubelet.service" => Ok(self.later(emitter, name, "active", "done")),
            "broken.service" => Ok(self.later(emitter, name, "failed", "failed")),
            "slow.service" => Ok(ObjectPath::try_from("/org/freedesktop/systemd1/job/9").unwrap().to_owned().into()),
            _ => Err(fdo::Error::FileNotFound(format!("Unit {name} not found."))),
        }
    }

    async fn stop_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> OwnedObjectPath {
        self.later(emitter, name, "inactive", "done")
    }

    async fn enable_unit_files(
        &self,
        files: Vec<String>,
        _runtime: bool,
        _force: bool,
    ) -> (bool, Vec<(String, String, String)>) {
        files.into_iter().for_each(|f| drop(self.states.lock().unwrap().insert(format!("file {f}"), "enabled".into())));
        (true, Vec::new())
    }

    async fn disable_unit_files(&self, files: Vec<String>, _runtime: bool) -> Vec<(String, String, String)> {
        files
            .into_iter()
            .for_each(|f| drop(self.states.lock().unwrap().insert(format!("file {f}"), "disabled".into())));
        Vec::new()
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl UnitObject {
    #[zbus(property)]
    fn load_state(&self) -> &str {
        if self.name == "absent.service" { "not-found" } else { "loaded" }
    }

    #[zbus(property)]
    fn active_state(&self) -> String {
        self.states.lock().unwrap().get(&self.name).cloned().unwrap_or_default()
    }

    #[zbus(property)]
    fn unit_file_state(&self) -> String {
        self.states.lock().unwrap().get(&format!("file {}", self.name)).cloned().unwrap_or_default()
    }
}

/// A private /run with a message bus; nothing of it is seen outside this thread's mount namespace.
fn bus() -> Child {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    assert!(!systemd::available());
    assert_eq!(systemd::unit("kubelet.service").unwrap(), None);
    let error = format!("{:#}", systemd::start("kubelet.service", Duration::from_secs(1)).unwrap_err());
    assert!(error.contains("could not start kubelet.service") && error.contains("To fix it"), "{error}");
    std::fs::create_dir("/run/dbus").unwrap();
    std::fs::write("/run/bus.conf", CONFIG).unwrap();
    let child = Command::new("dbus-daemon")
        .args(["--config-file=/run/bus.conf", "--nofork", "--nopidfile"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(systemd::available);
    child
}

fn serve(states: &States) {
    let states = Arc::clone(states);
    std::thread::spawn(move || {
        zbus::block_on(async move {
            let mut builder = zbus::connection::Builder::address("unix:path=/run/dbus/system_bus_socket")
                .name("org.freedesktop.systemd1")
                .serve_at("/org/freedesktop/systemd1", Manager { states: Arc::clone(&states) });
            for name in ["kubelet.service", "absent.service", "broken.service"] {
                let unit = UnitObject { name: name.to_owned(), states: Arc::clone(&states) };
                builder = builder.serve_at(format!("/unit/{}", name.replace(['.', '-'], "_")), unit);
            }
            let _connection = builder.build().await.unwrap();
            states.lock().unwrap().insert("ready".into(), String::new());
            std::future::pending::<()>().await;
        });
    });
}

/// One test: a process has one /run as far as the bus's address goes.
#[test]
fn units_are_seen_started_stopped_and_enabled() {
    let mut daemon = bus();
    let states = States::default();
    states.lock().unwrap().insert("kubelet.service".into(), "active".into());
    serve(&states);
    wait_for(|| states.lock().unwrap().contains_key("ready"));

    let kubelet = || systemd::unit("kubelet.service").unwrap().unwrap();
    assert_eq!(kubelet(), Unit { active: "active".into(), enabled: String::new() });
    assert_eq!(systemd::unit("absent.service").unwrap(), None);
    systemd::stop("kubelet.service", Duration::from_secs(5)).unwrap();
    assert_eq!(kubelet().active, "inactive");
    systemd::start("kubelet.service", Duration::from_secs(5)).unwrap();
    assert_eq!(kubelet().active, "active");

    let failed = |name: &str, patience| format!("{:#}", systemd::start(name, patience).unwrap_err());
    let error = failed("broken.service", Duration::from_secs(5));
    assert!(error.contains("ended with \"failed\"") && error.contains("systemctl status broken.service"), "{error}");
    assert!(failed("absent.service", Duration::from_secs(5)).contains("Unit absent.service not found"));
    let start = Instant::now();
    assert!(failed("slow.service", Duration::from_millis(200)).contains("did not end within"));
    assert!(start.elapsed() < Duration::from_secs(2));

    systemd::enable(&["kubelet.service".to_owned()]).unwrap();
    assert_eq!(kubelet().enabled, "enabled");
    systemd::disable(&["kubelet.service".to_owned()]).unwrap();
    assert_eq!(kubelet().enabled, "disabled");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn the_status_text_reaches_both_kinds_of_socket() {
    // The variable is read by a process of its own: a test may not change its own environment.
    let Ok(socket) = std::env::var("NOTIFY_SOCKET") else {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("nodectl-test-{}", std::process::id());
        let sockets = [
            (path.to_string_lossy().into_owned(), SocketAddr::from_pathname(&path).unwrap()),
            (format!("@{abstract_name}"), SocketAddr::from_abstract_name(&abstract_name).unwrap()),
        ];
        for (variable, address) in sockets {
            let receiver = UnixDatagram::bind_addr(&address).unwrap();
            receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let me = std::env::current_exe().unwrap();
            let arguments = ["--exact", "the_status_text_reaches_both_kinds_of_socket"];
            let run = Command::new(me).args(arguments).env("NOTIFY_SOCKET", &variable).output().unwrap();
            assert!(run.status.success(), "{run:?}");
            let mut buffer = [0; 100];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"STATUS=step 3 of 9");
        }
        return;
    };
    assert!(!socket.is_empty());
    systemd::notify_status("step 3\nof 9");
}
