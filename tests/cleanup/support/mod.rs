//! A node of its own for each test: what others own is built first, then what the CNI owns; after the cleanup the first is left.
#![allow(dead_code, reason = "each test uses a part")]

use nodectl_lab::cluster::{Cluster, Network, Options};
use nodectl_lab::command::Output;
use nodectl_lab::fixture;
use nodectl_lab::node::{Node, Running};
use nodectl_lab::snapshot::Snapshot;

/// A light node without a kubelet and without pods.
pub struct Ground {
    cluster: Cluster,
    /// What others own on it.
    pub foreign: Snapshot,
}

impl Ground {
    /// A node with all that others may own.
    pub fn crowded() -> Ground {
        Ground::with(fixture::FOREIGN)
    }

    /// A node with what a script makes.
    pub fn with(script: &str) -> Ground {
        let options = Options { nodes: 1, api: false, network: Network::None, ..Options::default() };
        let cluster = Cluster::start(options).expect("the node starts");
        cluster.node(1).unwrap().stop_unit("kubelet.service").expect("the kubelet stops");
        let ground = Ground { cluster, foreign: Snapshot::default() };
        ground.build(script);
        let foreign = ground.snapshot();
        Ground { foreign, ..ground }
    }

    /// The node.
    pub fn node(&self) -> &dyn Node {
        self.cluster.node(1).unwrap()
    }

    /// Runs a script that must succeed.
    pub fn build(&self, script: &str) {
        let done = self.node().exec_with_input(&["sh", "-e", "-s"], &fixture::script(script)).unwrap();
        assert!(done.ok(), "the script failed with {}: {}", done.code, done.stderr);
    }

    /// A process of this name, which does nothing.
    pub fn process(&self, name: &str, args: &[&str]) -> Running {
        self.build(&format!("cp /bin/sh /run/{name}"));
        let path = format!("/run/{name}");
        let mut argv = vec![path.as_str(), "-c", "sleep 1000; :"];
        argv.extend(args);
        let running = self.node().spawn(&argv).unwrap();
        // It enters the node's namespaces first.
        self.build(&comes(name));
        running
    }

    /// What the node looks like now.
    pub fn snapshot(&self) -> Snapshot {
        // iptables makes a kernel's table and chain with the first rule in it, and never takes them away. What is in them is
        // compared as iptables shows it.
        let is_kernels = |section: &str, line: &str| {
            let chain = line.ends_with(" ACCEPT") && line.split(' ').nth(1).is_some_and(|c| c.starts_with(':'));
            let table = line.strip_prefix("table ip ").or_else(|| line.strip_prefix("table ip6 "));
            chain || section == "nft" && table.is_some_and(|t| ["filter", "nat", "mangle", "raw"].contains(&t))
        };
        Snapshot::take(self.node()).unwrap().without(is_kernels)
    }

    /// `nodectl cleanup ARGS`.
    pub fn cleanup(&self, args: &[&str]) -> Output {
        let mut argv = vec!["nodectl", "cleanup"];
        argv.extend(args);
        self.node().exec(&argv).unwrap()
    }

    /// The same, which must end with this code.
    pub fn must(&self, args: &[&str], code: i32) -> Output {
        let done = self.cleanup(args);
        assert_eq!(done.code, code, "cleanup {args:?}\n{}{}", done.stdout, done.stderr);
        done
    }

    /// The document of a dry run.
    pub fn would(&self, args: &[&str]) -> serde_json::Value {
        let mut all = args.to_vec();
        all.extend(["--dry-run", "--output", "json"]);
        let done = self.cleanup(&all);
        serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", done.stdout, done.stderr))
    }

    /// Nothing is left but what others own, and that is as it was.
    pub fn must_be_as_others_left_it(&self) {
        let difference = self.foreign.diff(&self.snapshot());
        assert!(difference.is_empty(), "{}", difference.join("\n"));
    }

    /// Cleans, and takes just what the dry run had shown.
    pub fn must_take_what_it_showed(&self, cni: &str) {
        let shown = self.would(&[cni]);
        let done = self.must(&[cni, "--yes", "--output", "json"], 0);
        let done: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!((&shown["objects"], &shown["counts"]), (&done["objects"], &done["counts"]));
    }

    /// Cleans: the crowd is as it was, the list of checks prints nothing, and a second time there is nothing to do.
    pub fn must_go(&self, cni: &str, checklist: &str) {
        self.must_take_what_it_showed(cni);
        self.must_be_as_others_left_it();
        self.must_print_nothing(checklist);
        let again = self.must(&[cni, "--yes", "--output", "json"], 0);
        let again: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
        assert_eq!((&again["outcome"], &again["changed"]), (&"nothing-to-do".into(), &false.into()));
    }

    /// A list of checks, each of which prints nothing where all is well.
    pub fn must_print_nothing(&self, checklist: &str) {
        let done = self.node().exec_with_input(&["sh", "-e", "-s"], checklist).unwrap();
        assert!(done.ok() && done.stdout.trim().is_empty(), "exit {}: {}{}", done.code, done.stdout, done.stderr);
    }
}

/// A script that waits until the process that was copied to /run under this name is there.
pub fn comes(name: &str) -> String {
    format!("until grep -qa '^/run/{name}' /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.02; done")
}
