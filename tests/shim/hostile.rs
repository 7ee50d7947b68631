//! Hostile input to the program itself (its parts: properties.rs): whatever stands in a file or on standard input, the answer is a result or an error object, never a panic.

use crate::common::{World, cache_file, flannel_list};
use cni_store::state::Backend;
use serde_json::{Value, json};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    /// Some bytes changed, cut off, repeated or zeroed, as a torn disk or a bad editor does.
    fn mangle(&mut self, text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes[at..].fill(0),
                2 => bytes[at] = self.below(256) as u8,
                3 => bytes.splice(at..at, b"[{\"\\u0000-1e999".iter().copied()).for_each(drop),
                4 => bytes.drain(at..(at + self.below(20)).min(text.len()).max(at).min(bytes.len())).for_each(drop),
                _ => bytes.extend_from_within(..at),
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }

    /// Some value in the tree replaced by another kind of value.
    fn confuse(&mut self, value: &mut Value) {
        let odd = [
            json!(null),
            json!(-1),
            json!(""),
            json!([]),
            json!({}),
            json!(1e300),
            json!(true),
            json!("\u{0}/../x"),
            json!([[[{}]]]),
        ];
        let children = match value {
            Value::Object(map) if !map.is_empty() => map.values_mut().collect::<Vec<_>>(),
            Value::Array(list) if !list.is_empty() => list.iter_mut().collect(),
            _ => Vec::new(),
        };
        let count = children.len();
        match children.into_iter().nth(self.below(count + 1)) {
            Some(child) => self.confuse(child),
            None => *value = odd[self.below(odd.len())].clone(),
        }
    }
}

fn speaks_cni(world: &World, verb: &str, stdin: &[u8]) {
    let call = world.call(verb, "c1").limits(json!({"lock": 200, "hold": 50}));
    let mut child = call.spawn_with(stdin);
    let _ = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    let seen = format!("{verb} {:?}: {output:?}", String::from_utf8_lossy(stdin));
    match output.status.code() {
        Some(0) if verb == "ADD" => {
            assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap().is_object(), "{seen}")
        }
        Some(0) => assert!(output.stdout.is_empty(), "{seen}"),
        Some(1) => {
            let error: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|cause| panic!("{cause}: {seen}"));
            assert!(error["code"].as_u64().unwrap() > 0 && error["msg"].is_string(), "{seen}");
        }
        _ => panic!("{seen}"),
    }
}

#[test]
fn on_standard_input() {
    let world = World::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut config = world.call("ADD", "c1").limits(json!({"lock": 200})).config;
    config.insert("runtimeConfig".into(), json!({"portMappings": [{"HostPort": 1}]}));
    config.insert("cni.dev/valid-attachments".into(), json!([{"containerID": "c1", "ifname": "eth0"}]));
    let config = Value::Object(config);
    for round in 0..120 {
        let verb = ["ADD", "DEL", "CHECK", "GC", "STATUS"][round % 5];
        let stdin = if round % 2 == 0 {
            random.mangle(&config.to_string())
        } else {
            let mut confused = config.clone();
            random.confuse(&mut confused);
            if confused.is_object() {
                confused["stateDir"] = config["stateDir"].clone();
                confused["root"] = config["root"].clone();
            }
            confused.to_string().into_bytes()
        };
        // A mangled path could lead out of the test's directory.
        let text = String::from_utf8_lossy(&stdin);
        let root = config["root"].as_str().unwrap();
        if serde_json::from_slice::<Value>(&stdin).is_ok() && !text.contains(&format!("\"root\":\"{root}\"")) {
            continue;
        }
        speaks_cni(&world, verb, &stdin);
    }
}

#[test]
fn in_files() {
    let world = World::new();
    let mut random = Random(0xdead_beef_cafe_f00d);
    world.route(Backend::Calico);
    cache_file(&world, &flannel_list(), "c1", &json!({"cniVersion": "0.3.1"}));
    world.add("c1").succeeded();
    world.write("root/var/lib/cni/networks/cbr0/10.244.1.2", "c1\r\neth0");
    world.write("root/var/lib/cni/flannel/c1", r#"{"name":"cbr0","type":"bridge"}"#);
    world.install("bin", "host-local");
    let paths = world.paths();
    let files = [
        paths.state(),
        paths.state_copy(),
        paths.record("c1", "eth0"),
        paths.node("/var/lib/cni/results/cbr0-c1-eth0"),
        paths.node("/var/lib/cni/flannel/c1"),
        world.conflist_path(Backend::Calico),
        world.conflist_path(Backend::Flannel),
        paths.backend_copy(Backend::Calico),
    ];
    let whole: Vec<_> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let stdin = Value::Object(world.call("ADD", "c1").config).to_string();
    for round in 0..120 {
        for (file, text) in files.iter().zip(&whole) {
            let bytes = match random.below(4) {
                0 => random.mangle(text),
                1 => {
                    // A record's last line is what counts.
                    let mut confused = serde_json::from_str(text.lines().next_back().unwrap()).unwrap();
                    random.confuse(&mut confused);
                    confused.to_string().into_bytes()
                }
                _ => text.clone().into_bytes(),
            };
            std::fs::write(file, bytes).unwrap();
        }
        speaks_cni(&world, ["DEL", "ADD", "CHECK", "STATUS"][round % 4], stdin.as_bytes());
    }
}
