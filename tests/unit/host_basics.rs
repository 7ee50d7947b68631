//! Files, programs, processes, sysctls and fault points.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use nodectl::host::run::{self, Run};
use nodectl::host::{Host, files, machine, process, sysctl};

#[path = "support/namespace.rs"]
mod namespace;

#[test]
fn files_are_replaced_whole_and_keep_their_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("10-flannel.conflist");
    files::write_atomic(&path, b"one", 0o600).unwrap();
    assert_eq!(files::mode(&path).unwrap(), Some(0o600));
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    files::write_atomic(&path, b"two", 0o666).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.ino() != inode && meta.uid() == 65534 && meta.permissions().mode() & 0o777 == 0o666);
    assert_eq!(files::read_text_optional(&path).unwrap().as_deref(), Some("two"));
    let copy = directory.path().join("copy");
    files::copy_atomic(&path, &copy, None).unwrap();
    assert_eq!(
        (files::mode(&copy).unwrap(), files::sha256(&copy).unwrap()),
        (Some(0o666), files::sha256(&path).unwrap())
    );
    assert_eq!(files::list(directory.path()).unwrap(), ["10-flannel.conflist", "copy"]);
    let error = format!("{:#}", files::write_atomic(&directory.path().join("no/such"), b"", 0o600).unwrap_err());
    assert!(error.contains("could not write") && error.contains("No such file"), "{error}");
}

#[test]
fn what_is_not_there_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let none = directory.path().join("none");
    assert_eq!(files::read_optional(&none).unwrap(), None);
    assert_eq!(files::sha256(&none).unwrap(), None);
    assert_eq!(files::mode(&none).unwrap(), None);
    assert!(files::list(&none).unwrap().is_empty());
    assert!(!files::remove(&none).unwrap() && !files::remove_directory(&none).unwrap());
    assert!(files::free_bytes(&none.join("below")).unwrap() > 0);
    symlink("/nowhere", &none).unwrap();
    assert!(files::exists(&none) && files::remove(&none).unwrap() && !files::exists(&none));
    assert_eq!(
        files::sha256(&{
            fs::write(&none, "abc").unwrap();
            none.clone()
        })
        .unwrap()
        .unwrap(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn temporaries_of_the_killed_are_swept() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(".nodectl-x-0-1"), "torn").unwrap();
    fs::write(directory.path().join("x"), "whole").unwrap();
    assert_eq!(files::remove_temporaries(directory.path()).unwrap(), [".nodectl-x-0-1"]);
    assert_eq!(files::list(directory.path()).unwrap(), ["x"]);
}

#[test]
fn a_read_only_directory_is_told_from_a_writable_one() {
    let directory = tempfile::tempdir().unwrap();
    files::writable(directory.path()).unwrap();
    files::writable(&directory.path().join("not/there/yet")).unwrap();
    let machine =
        machine::observe(&[("/sys".into(), "/proc/sys".into()), ("/t".into(), directory.path().into())]).unwrap();
    assert!(machine.free_bytes.contains_key("/t") && machine.uid == 0 && machine.boot_id.len() == 36);
    assert!(!machine.unwritable.contains_key("/t"));
}

#[test]
fn paths_lie_below_the_root() {
    assert_eq!(Host::new("/mnt").path("/etc/cni"), std::path::Path::new("/mnt/etc/cni"));
    assert_eq!(Host::default().path("/etc/cni"), std::path::Path::new("/etc/cni"));
}

#[test]
fn programs_get_what_they_are_given_and_nothing_else() {
    let text = Run::new("sh").args(["-c", "cat; env"]).stdin("in\n").env("EXTRA", "1").text().unwrap();
    assert!(text.starts_with("in\n") && text.contains("LC_ALL=C\n") && text.contains("EXTRA=1\n"), "{text}");
    assert!(text.contains(&format!("PATH={}\n", run::PATH)) && !text.contains("CARGO"), "{text}");
    let big = vec![b'x'; 3 << 20];
    let output = Run::new("cat").stdin(big.clone()).output().unwrap();
    assert_eq!(output.stdout.len(), big.len());
    // One that does not read its input breaks the pipe; that is its right.
    assert!(Run::new("true").stdin(big).output().unwrap().status.success());
}

#[test]
fn failures_of_programs_read_as_sentences() {
    let error = Run::new("sh").args(["-c", "echo out; echo why >&2; exit 3"]).text().unwrap_err().to_string();
    assert!(error.ends_with("failed with status 3: why"), "{error}");
    let error = Run::new("sh").args(["-c", "kill -9 $$"]).text().unwrap_err().to_string();
    assert!(error.contains("was killed by signal 9"), "{error}");
    let error = Run::new("no-such-program").text().unwrap_err().to_string();
    assert!(error.contains("is not installed"), "{error}");
    let error = Run::new("sh").args(["-c", "head -c 5000 /dev/zero | tr '\\0' e >&2; exit 1"]).text().unwrap_err();
    assert!(error.to_string().len() < 1200);
    assert!(run::installed("sh") && !run::installed("no-such-program"));
}

#[test]
fn an_overrun_kills_the_whole_group() {
    let start = Instant::now();
    let line = "echo $$; sleep 60 & echo $!; echo late >&2; wait";
    let error = Run::new("sh").args(["-c", line]).timeout(Duration::from_millis(300)).text().unwrap_err().to_string();
    assert!(error.contains("did not end within") && start.elapsed() < Duration::from_secs(2), "{error}");
    // A child that outlives its parent and holds the pipe does not hold us for its whole life.
    let start = Instant::now();
    let text = Run::new("sh").args(["-c", "echo done; sleep 4 &"]).text();
    assert!(text.is_ok() && start.elapsed() < Duration::from_secs(4));
}

#[test]
fn processes_are_found_by_name() {
    let me = process::read(std::process::id()).unwrap();
    assert!(me.name.starts_with("host_basics"), "{me:?}");
    assert!(process::scan().unwrap().contains(&me));
    assert!(process::alive(me.pid) && !process::alive(u32::MAX));
    assert!(process::read(2).is_none_or(|p| !p.args.is_empty()));
}

#[test]
fn sysctls_are_of_this_threads_namespace() {
    namespace::enter();
    namespace::sh("ip link add flannel.1 type bridge");
    let name = sysctl::of_interface("ipv4", "flannel.1", "rp_filter");
    assert_eq!(name, "net.ipv4.conf.flannel/1.rp_filter");
    let before = sysctl::read(&name).unwrap();
    assert!(before.is_some());
    assert_eq!(sysctl::ensure(&name, "2").unwrap(), before);
    assert_eq!(sysctl::ensure(&name, "2").unwrap().as_deref(), Some("2"));
    assert_eq!(namespace::sh("sysctl -n net/ipv4/conf/flannel.1/rp_filter").trim(), "2");
    assert_eq!(sysctl::read("net/ipv4/conf/flannel.1/rp_filter").unwrap().as_deref(), Some("2"));
    assert_eq!(sysctl::read("net.ipv4.conf.gone0.rp_filter").unwrap(), None);
    assert!(format!("{:#}", sysctl::write(&name, "nonsense").unwrap_err()).contains("could not set the sysctl"));
}

/// Runs only with `--features fault-points`: the points are counted, logged and kill, in a process of their own.
#[cfg(feature = "fault-points")]
#[test]
fn a_fault_point_kills_where_it_is_told() {
    use std::os::unix::process::ExitStatusExt;
    if let Some(directory) = std::env::var_os("FAULT_TEST") {
        for name in ["a", "b", "a"] {
            files::write_atomic(&std::path::Path::new(&directory).join(name), b"x", 0o600).unwrap();
        }
        return;
    }
    for (fault, signal, passed) in
        [("", None, 6), ("3", Some(9), 3), ("files.write:3", Some(9), 5), ("files.none:1", None, 6)]
    {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_fault_point_kills_where_it_is_told"])
            .env("FAULT_TEST", directory.path())
            .env("NODECTL_FAULT", fault)
            .env("NODECTL_FAULT_LOG", &log)
            .output()
            .unwrap()
            .status;
        let log = fs::read_to_string(log).unwrap();
        assert_eq!((status.signal(), log.lines().count()), (signal, passed), "{fault}: {log}");
    }
}
