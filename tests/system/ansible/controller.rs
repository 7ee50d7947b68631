//! The machine that Ansible runs on, and how its playbooks end.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nodectl_lab::command;
use nodectl_lab::node::Node;
use nodectl_lab::package::Packages;
use nodectl_lab::scenario::Scenario;
use nodectl_lab::wait::{PATIENCE, eventually, within};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The task in which a playbook waits for the end of what it has started.
const WAITS: &str = "TASK [nodectl.cni.run : Wait until it has ended]";

/// The machine that Ansible runs on: a home with the collection, and an inventory.
pub struct Controller {
    home: tempfile::TempDir,
}

/// How a playbook ended.
pub struct Played {
    pub code: i32,
    pub text: String,
}

impl Controller {
    /// So many workers, then the control plane of one node; with this about node1.
    pub fn new(scenario: &Scenario, workers: u8, of_node1: &str) -> Controller {
        let control_plane = workers + 1;
        let others: String = (2..=control_plane).map(|index| format!("node{index}\n")).collect();
        let hosts = format!("[kube_node]\nnode1 {of_node1}\n{others}[kube_control_plane]\nnode{control_plane}\n");
        let nodes: Vec<&dyn Node> = scenario.cluster.nodes().collect();
        Controller::of(&hosts, &nodes, &Packages::under_test().unwrap().deb)
    }

    /// These hosts, which get this package.
    pub fn of(hosts: &str, nodes: &[&dyn Node], package: &Path) -> Controller {
        let controller = Controller { home: tempfile::tempdir().unwrap() };
        nodes.iter().for_each(|node| controller.plug_in(*node));
        let hosts = format!(
            "{hosts}[all:vars]\nansible_connection=lab\nlab_folder={}\nansible_python_interpreter=/usr/bin/python3\nnodectl_package={}\n\
             nodectl_poll_seconds=1\n",
            controller.home.path().display(),
            package.display()
        );
        std::fs::write(controller.home.path().join("hosts"), hosts).unwrap();
        let installed =
            controller.run(&["ansible-galaxy", "collection", "install", &format!("{ROOT}/packaging/ansible")]);
        assert_eq!(installed.code, 0, "{}", installed.text);
        let described = controller.run(&["ansible-doc", "nodectl.cni.run"]);
        assert!(described.code == 0 && described.text.contains("cni-migrate.service"), "{}", described.text);
        controller
    }

    /// Where the connection finds the node: it is another process after each boot.
    fn plug_in(&self, node: &dyn Node) {
        let file = self.pid_file(node);
        // Whole from the first moment: a playbook may be looking for it.
        let draft = file.with_extension("draft");
        std::fs::write(&draft, node.pid().unwrap().to_string()).unwrap();
        std::fs::rename(draft, file).unwrap();
    }

    fn pid_file(&self, node: &dyn Node) -> PathBuf {
        self.home.path().join(format!("{}.pid", node.name()))
    }

    /// The node's power is cut, and comes back.
    pub fn power_cycle(&self, node: &dyn Node) {
        std::fs::remove_file(self.pid_file(node)).unwrap();
        node.power_cut().unwrap();
        node.start().unwrap();
        self.plug_in(node);
    }

    /// A file beside the inventory.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join(name), text).unwrap();
    }

    /// Where Ansible writes what it does, while it does it.
    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// A command on this machine, to be completed by the caller.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).current_dir(self.home.path());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.home.path());
        command
            .env("LC_ALL", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_PIPELINING", "1")
            .env("ANSIBLE_LOG_PATH", self.log());
        command.env("ANSIBLE_CONNECTION_PLUGINS", Path::new(ROOT).join("tests/system/ansible/connection"));
        command
    }

    /// Runs it to its end.
    pub fn run(&self, argv: &[&str]) -> Played {
        let begin = Instant::now();
        let done = command::output(&mut self.command(argv), "").unwrap();
        println!("{}: exit {} after {:?}", argv.join(" "), done.code, begin.elapsed());
        Played { code: done.code, text: format!("{}{}", done.stdout, done.stderr) }
    }

    /// A playbook of the collection.
    pub fn play(&self, name: &str, more: &[&str]) -> Played {
        let name = format!("nodectl.cni.{name}");
        self.run(&[&["ansible-playbook", "-i", "hosts", &name], more].concat())
    }
}

impl Controller {
    /// A playbook on a terminal: once it asks this, that is typed until it has gone on.
    pub fn answered(&self, name: &str, more: &[&str], question: &str, answer: &str) -> Played {
        let line = format!("ansible-playbook -i hosts nodectl.cni.{name} {}", more.join(" "));
        let mut command = self.command(&["script", "-qec", &line, "/dev/null"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut input, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&seen).contains(question) {
            match output.read(&mut piece).unwrap() {
                0 => break,
                n => seen.extend_from_slice(&piece[..n]),
            }
        }
        std::thread::scope(|scope| {
            let rest = scope.spawn(|| output.read_to_end(&mut seen).unwrap());
            while !rest.is_finished() {
                // Ansible throws away what was typed before it reads, and reads a moment after it has asked.
                std::thread::sleep(Duration::from_secs(1));
                // An error: it has ended meanwhile.
                let _ = input.write_all(answer.as_bytes());
            }
        });
        let code = command::exit_code(process.wait().unwrap());
        println!("{line}, answered: exit {code}");
        Played { code, text: String::from_utf8_lossy(&seen).into_owned() }
    }
}

impl Played {
    /// It must have ended well, with so many changes on each node.
    #[track_caller]
    pub fn changed<const N: usize>(self, nodes: [usize; N]) -> Played {
        assert_eq!(self.code, 0, "{}", self.text);
        for (node, changes) in ["node1", "node2", "node3"].into_iter().zip(nodes) {
            let recap = self.recap(node);
            assert!(recap.contains(&format!(" changed={changes} ")), "not {changes} changes: {recap}\n{}", self.text);
        }
        self
    }

    /// The line about a node at the end.
    pub fn recap(&self, node: &str) -> String {
        let recap = self.text.rsplit("PLAY RECAP").next().unwrap_or_default();
        recap.lines().find(|line| line.starts_with(node)).unwrap_or_default().to_owned()
    }

    /// These words must be in what it printed.
    #[track_caller]
    pub fn says(self, words: &str) -> Played {
        assert!(self.text.contains(words), "{words} is not in:\n{}", self.text);
        self
    }
}

/// The node has this file.
pub fn has(node: &dyn Node, path: &str) -> bool {
    node.path(path).unwrap().exists()
}

/// While the playbook runs: as soon as a run is open on the node and the playbook knows that it has begun, this is done to the node. A
/// connection that is lost before fails the task that starts the run, and with it the playbook.
pub fn in_mid_run(
    controller: &Controller,
    playbook: &str,
    node: &dyn Node,
    more: &[&str],
    act: impl FnOnce(),
) -> Played {
    std::fs::write(controller.log(), "").unwrap();
    std::thread::scope(|scope| {
        let played = scope.spawn(|| controller.play(playbook, more));
        let is_open = || has(node, "/var/lib/nodectl/open");
        let waits = || std::fs::read_to_string(controller.log()).unwrap().contains(WAITS);
        within(PATIENCE * 2, "a run is open", || is_open() && waits() || played.is_finished());
        act();
        played.join().unwrap()
    })
}

/// The connection to the node is lost in the middle of the run, which ends meanwhile; then it comes back.
pub fn cut_off(
    controller: &Controller,
    playbook: &str,
    node: &dyn Node,
    more: &[&str],
    has_ended: impl Fn() -> bool,
) -> Played {
    let cut = node.path("/run/cut").unwrap();
    in_mid_run(controller, playbook, node, more, || {
        std::fs::write(&cut, "").unwrap();
        eventually("the run ends without the connection", has_ended);
        eventually("the playbook has met the cut", || has(node, "/run/cut-was-met"));
        std::fs::remove_file(&cut).unwrap();
    })
}
