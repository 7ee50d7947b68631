//! The failure matrix, rows about a disk that is full or can only be read.

use crate::common::{World, in_namespaces};
use cni_store::record::Phase;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use serde_json::json;
use std::fs;

/// Runs a test whose state directory is a small tmpfs.
fn on_a_small_disk(test: impl FnOnce(&World) + Send + 'static) {
    in_namespaces(CloneFlags::empty(), || {
        let world = World::new();
        let dir = world.paths().state_dir().to_owned();
        fs::create_dir_all(&dir).unwrap();
        mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=128k")).unwrap();
        test(&world);
    });
}

fn fill(world: &World) {
    let full = fs::write(world.paths().state_dir().join("filler"), vec![b'x'; 1 << 20]);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn row_09_disk_full_at_the_intent() {
    on_a_small_disk(|world| {
        fill(world);
        let answer = world.add("c1").failed(5);
        assert!(answer.stdout.contains("Nothing was done"), "{answer:?}");
        assert!(world.take_log().is_empty());
        fs::remove_file(world.paths().state_dir().join("filler")).unwrap();
        world.assert_clean();
    });
}

#[test]
fn row_10_and_11_disk_full_after_the_intent() {
    on_a_small_disk(|world| {
        world.tell("portmap.ADD", &format!("head -c 1M /dev/zero > {}/filler", world.paths().state_dir().display()));
        // So many that what comes behind the intent needs another page.
        let mappings = json!({"portMappings": (0..200).map(|n| json!({"HostPort": 8080 + n})).collect::<Vec<_>>()});
        world.call("ADD", "c1").with("runtimeConfig", mappings.clone()).go().succeeded();
        let record = world.record("c1").unwrap();
        assert_eq!(record.phase, Phase::Intent, "there was no room for more");
        world.del("c1").succeeded();
        assert_eq!(world.calls()[2].stdin["runtimeConfig"], mappings);
        assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD", "portmap DEL", "flannel DEL"]);
        world.assert_clean();
        // Of a sandbox for which not even a lock file can be made.
        world.del("c2").succeeded();
    });
}

#[test]
fn row_09_and_11_a_disk_that_can_only_be_read() {
    on_a_small_disk(|world| {
        world.add("c1").succeeded();
        world.take_log();
        let remount = |flags| {
            let dir = world.paths().state_dir().to_owned();
            mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_REMOUNT | flags, Some("size=128k")).unwrap();
        };
        remount(MsFlags::MS_RDONLY);
        world.add("c2").failed(5);
        // Nothing that is running is called broken, and nothing is said to be deleted that is still recorded.
        world.call("CHECK", "c1").go().succeeded();
        world.call("STATUS", "").go().succeeded();
        world.del("c1").failed(5);
        assert!(world.record("c1").is_some() && world.take_log().is_empty());
        remount(MsFlags::empty());
        world.del("c1").succeeded();
        assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
        world.assert_clean();
    });
}
