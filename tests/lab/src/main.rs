//! One binary, many programs: `nodectl-lab PROGRAM ARGS`, or a copy of it under a CNI plugin's name.

use std::path::Path;
use std::process::ExitCode;

/// A program of the lab: takes the arguments after its own name.
type Program = fn(&[String]) -> anyhow::Result<ExitCode>;

/// Every program, by the name it is called with.
const PROGRAMS: &[(&str, Program)] = &[
    ("apiserver", nodectl_lab::apiserver::main),
    ("bench", nodectl_lab::bench::main),
    ("controllers", nodectl_lab::controllers::main),
    ("calico-node", nodectl_lab::calico::node::main),
    ("demo", nodectl_lab::demo::main),
    ("enter", nodectl_lab::runtime::enter::main),
    ("flanneld", nodectl_lab::flannel::main),
    ("flannel-plugin", nodectl_lab::flannel::plugin::main),
    ("guard", nodectl_lab::cluster::guard),
    ("in-machine", nodectl_lab::vm::enter::main),
    ("init", nodectl_lab::init::main),
    ("install-cni", nodectl_lab::calico::install::main),
    ("install-flannel", nodectl_lab::flannel::install::main),
    ("kubelet", nodectl_lab::kubelet::main),
    ("launch", nodectl_lab::node::launch::main),
    ("launch-full", nodectl_lab::full::launch::main),
    ("launch-full-machine", nodectl_lab::vm::launch::full),
    ("launch-machine", nodectl_lab::vm::launch::main),
    ("network", nodectl_lab::init::set_up_network),
    ("pod", nodectl_lab::pod::main),
    ("probe", nodectl_lab::traffic::probe::main),
    ("runtime", nodectl_lab::runtime::main),
    ("up", nodectl_lab::cluster::up::main),
];

/// Programs that a container runtime starts by their file name, as it does with CNI plugins and with runc.
const BY_FILE_NAME: &[(&str, Program)] = &[
    ("calico", nodectl_lab::calico::cni::calico),
    ("calico-ipam", nodectl_lab::calico::cni::calico_ipam),
    ("lab-runc", nodectl_lab::full::runc::main),
    ("calico-node", nodectl_lab::calico::node::main),
    ("flanneld", nodectl_lab::flannel::main),
];

fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args().collect();
    match dispatch(&argv) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nodectl-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Finds the program by argv[0]'s file name first, then by the first argument.
fn dispatch(argv: &[String]) -> anyhow::Result<ExitCode> {
    let file_name = argv.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    if let Some((_, program)) = BY_FILE_NAME.iter().find(|(name, _)| Some(*name) == file_name) {
        let rest = argv.get(1..).unwrap_or_default();
        // A runtime that shows a program under its own name passes that name all the same.
        let named_again = rest.first().map(String::as_str) == file_name;
        return program(rest.get(usize::from(named_again)..).unwrap_or_default());
    }
    let wanted = argv.get(1).map(String::as_str);
    match PROGRAMS.iter().find(|(name, _)| Some(*name) == wanted) {
        Some((_, program)) => program(argv.get(2..).unwrap_or_default()),
        None => {
            let names: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
            eprintln!("usage: nodectl-lab PROGRAM [ARGS...]; programs: {}", names.join(", "));
            Ok(ExitCode::from(64))
        }
    }
}
