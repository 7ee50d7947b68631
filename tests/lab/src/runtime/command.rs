//! What a container's image means on a light node: a program of the lab.

use std::path::Path;

use crate::cri::ContainerConfig;

/// The lab's binary in every light node.
const LAB: &str = "/usr/local/bin/nodectl-lab";
/// Real programs given to the lab in a stand-in's place, by the stand-in's name.
const GIVEN: &str = "/usr/local/lib/nodectl-lab";

/// The program that an image name stands for: "registry/lab/pod:1" is `pod`.
pub fn program(image: &str) -> Option<&str> {
    let name = image.split('@').next()?.rsplit('/').next()?;
    let (repository, _) = name.split_once(':').unwrap_or((name, ""));
    let is_lab = image.split('/').rev().nth(1) == Some("lab");
    (is_lab && !repository.is_empty()).then_some(repository)
}

/// The argument vector of a container; nothing for an image that is not the lab's and has no command.
pub fn argv(config: &ContainerConfig) -> Option<Vec<String>> {
    let mut argv = if config.command.is_empty() {
        program(image(config)).map(start_of)?
    } else {
        resolve(config, &config.command)
    };
    argv.extend(config.args.iter().cloned());
    Some(argv)
}

/// A command inside a container: the image's own program is where the lab keeps it, whatever folder the command names.
pub fn resolve(config: &ContainerConfig, command: &[String]) -> Vec<String> {
    let Some((first, rest)) = command.split_first() else {
        return Vec::new();
    };
    let name = Path::new(first).file_name().and_then(|name| name.to_str());
    match program(image(config)) {
        Some(program) if name == Some(program) => start_of(program).into_iter().chain(rest.iter().cloned()).collect(),
        _ => command.to_vec(),
    }
}

/// How a program of the lab is started: the real one, if one was given, else the stand-in.
fn start_of(program: &str) -> Vec<String> {
    let given = Path::new(GIVEN).join(program);
    if given.exists() { vec![given.display().to_string()] } else { vec![LAB.to_owned(), program.to_owned()] }
}

/// What an image of the lab finds in its environment besides what its pod says: where given plugins are.
pub fn environment(config: &ContainerConfig) -> Vec<(&'static str, String)> {
    let plugins = Path::new(GIVEN).join("plugins");
    match program(image(config)) {
        Some(_) => vec![
            ("LAB_CNI_BIN_DIR", plugins.display().to_string()),
            ("LAB_FLANNEL_PLUGIN", plugins.join("flannel").display().to_string()),
        ],
        None => Vec::new(),
    }
}

/// The image's name.
fn image(config: &ContainerConfig) -> &str {
    config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn only_the_labs_images_are_programs() {
        assert_eq!(program("lab/pod"), Some("pod"));
        assert_eq!(program("registry.local:5000/lab/calico-node:v3.31.0"), Some("calico-node"));
        assert_eq!(program("lab/pod@sha256:00"), Some("pod"));
        assert_eq!(program("docker.io/library/nginx:1"), None);
    }
}
