//! What is kept of a sandbox and of a container, on disk too.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cri::{ContainerConfig, NamespaceMode, PodSandboxConfig};

/// A pod sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id, fresh for each RunPodSandbox.
    pub id: String,
    /// Its configuration, as sent: protobuf in base64.
    pub config: String,
    /// The runtime handler asked for.
    pub handler: String,
    /// When it was made, in ns since 1970.
    pub created_at: i64,
    /// True while it can hold containers.
    pub ready: bool,
    /// Path of its network namespace; none on the host's network.
    pub netns: Option<String>,
    /// The result of its ADD, once that has ended well.
    pub result: Option<Value>,
    /// The boot it belongs to.
    pub boot: String,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// Its configuration, as sent: protobuf in base64.
    pub config: String,
    /// When it was made, in ns since 1970.
    pub created_at: i64,
    /// When it was started, 0 before.
    pub started_at: i64,
    /// When it ended, 0 before.
    pub finished_at: i64,
    /// Its process, 0 before it is started and after its end.
    pub pid: i32,
    /// When its process started, in clock ticks: numbers are used again.
    pub ticks: u64,
    /// Its exit code.
    pub exit_code: i32,
}

impl Sandbox {
    /// The configuration.
    pub fn config(&self) -> PodSandboxConfig {
        decode(&self.config)
    }

    /// True when its pod uses the node's own network.
    pub fn is_host_network(config: &PodSandboxConfig) -> bool {
        config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.as_ref())
            .is_some_and(|options| options.network() == NamespaceMode::Node)
    }
}

impl Container {
    /// The configuration.
    pub fn config(&self) -> ContainerConfig {
        decode(&self.config)
    }

    /// True between its start and its end.
    pub fn is_running(&self) -> bool {
        self.pid != 0
    }
}

/// A message as text.
pub fn encode(message: &impl Message) -> String {
    STANDARD.encode(message.encode_to_vec())
}

/// A message from its text; an empty one when the text was damaged, which only a hand in the runtime's folder can do.
fn decode<M: Message + Default>(text: &str) -> M {
    STANDARD.decode(text).ok().and_then(|bytes| M::decode(bytes.as_slice()).ok()).unwrap_or_default()
}

/// A random id of 64 hexadecimal digits, as containerd's are.
pub fn new_id() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Now, in ns since 1970.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
