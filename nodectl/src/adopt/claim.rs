//! What Calico has in writing of a pod: the address in its IPAM, the annotations on the Pod, the shim's record of how it is
//! deleted. The decisions are pure; [`assign`] and [`release`] call Calico's own plugin, [`annotate`] its API server.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cni_spec::chain::{DelList, PluginCall};
use cni_spec::conflist::List;
use cni_store::record::Record;
use cni_store::state::Backend;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::chained;
use crate::fault;
use crate::host::kube::{Kube, Patch, Write};
use crate::host::run::Run;

/// calico-ipam gives itself 90 s behind its host-wide lock.
const LIMIT: Duration = Duration::from_secs(100);
/// Group of Calico's IPAM objects, unless its conflist names another.
const GROUP: &str = "crd.projectcalico.org/v1";

/// A pod's attachment as Calico's plugins must hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The sandbox.
    pub container: String,
    /// Its interface.
    pub ifname: String,
    /// Path of its network namespace, as the node sees it.
    pub netns: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Uid of the pod.
    pub uid: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// Calico as it is installed on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// The network's name.
    network: String,
    /// Configuration of the plugin `calico`, as a plugin gets it.
    conf: Value,
    /// Its entry in the conflist.
    entry: Map<String, Value>,
    version: String,
}

impl Installed {
    /// Reads its conflist.
    pub fn of(list: &List) -> Result<Installed> {
        let is_it = |entry: &&Map<String, Value>| entry.get("type").and_then(Value::as_str) == Some("calico");
        let entry = list.plugins.iter().find(is_it).with_context(|| {
            format!(
                "the network {} does not run the plugin calico. To fix it: see why Calico's conflist is another's",
                list.name
            )
        })?;
        let mut conf = entry.clone();
        conf.insert("name".into(), json!(list.name));
        conf.insert("cniVersion".into(), json!(list.cni_version));
        Ok(Installed {
            network: list.name.clone(),
            conf: Value::Object(conf),
            entry: entry.clone(),
            version: list.cni_version.clone(),
        })
    }

    /// The kubeconfig that its plugins use, as the node sees its path.
    pub fn kubeconfig(&self) -> Result<&str> {
        self.conf["kubernetes"]["kubeconfig"].as_str().context("Calico's conflist names no kubeconfig")
    }

    /// The handle that the sandbox's DEL will look for.
    pub fn handle(&self, container: &str) -> String {
        format!("{}.{container}", self.network)
    }

    fn group(&self) -> &str {
        self.conf["calico_api_group"].as_str().filter(|group| !group.is_empty()).unwrap_or(GROUP)
    }
}

/// Records the pod's addresses in Calico's IPAM under its sandbox's handle. Those that are so recorded already are left alone;
/// one that somebody else holds is an error.
pub fn assign(installed: &Installed, pod: &Attachment, bin_dir: &Path, kube: &Kube) -> Result<()> {
    let path = format!("/apis/{}/ipamblocks", installed.group());
    let blocks = kube.list(&path, &[]).context("could not read Calico's address blocks")?;
    let handle = installed.handle(&pod.container);
    for ip in &pod.ips {
        match holder(&blocks, *ip) {
            Some(holder) if holder.eq_ignore_ascii_case(&handle) => {}
            Some(other) => bail!(
                "the address {ip} of {}/{} is {other}'s in Calico's IPAM. To fix it: restart this pod, or release the address \
                 with calicoctl if nobody has it",
                pod.namespace,
                pod.name
            ),
            None => call(installed, pod, bin_dir, "ADD", Some(*ip))
                .with_context(|| format!("Calico's IPAM did not record {ip} for {}/{}", pod.namespace, pod.name))?,
        }
    }
    Ok(())
}

/// Takes the sandbox's addresses out of Calico's IPAM; nothing happens where there are none.
pub fn release(installed: &Installed, pod: &Attachment, bin_dir: &Path) -> Result<()> {
    call(installed, pod, bin_dir, "DEL", None)
        .with_context(|| format!("Calico's IPAM did not release the addresses of {}/{}", pod.namespace, pod.name))
}

/// Whose an address is in Calico's IPAM: the handle. Pure.
pub fn holder(blocks: &[Value], ip: IpAddr) -> Option<String> {
    blocks.iter().find_map(|block| {
        let spec = &block["spec"];
        let cidr: ipnet::IpNet = spec["cidr"].as_str()?.parse().ok()?;
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let ordinal = cidr.contains(&ip).then(|| number(ip) - number(cidr.network()))?;
        let attribute = spec["allocations"].get(usize::try_from(ordinal).ok()?)?.as_u64()?;
        let handle = spec["attributes"].get(usize::try_from(attribute).ok()?)?["handle_id"].as_str();
        // Held without a handle: somebody's all the same.
        Some(handle.unwrap_or("an unnamed holder").to_owned())
    })
}

fn call(installed: &Installed, pod: &Attachment, bin_dir: &Path, verb: &str, ip: Option<IpAddr>) -> Result<()> {
    let mut args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
        pod.namespace, pod.name, pod.container
    );
    if let Some(ip) = ip {
        args.push_str(&format!(";IP={ip}"));
    }
    fault::point("claim.ipam");
    let output = Run::new(bin_dir.join("calico-ipam"))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &pod.container)
        .env("CNI_IFNAME", &pod.ifname)
        .env("CNI_NETNS", &pod.netns)
        .env("CNI_ARGS", args)
        .env("CNI_PATH", bin_dir)
        .stdin(installed.conf.to_string())
        .timeout(LIMIT)
        .output()?;
    fault::point("claim.ipam.called");
    if output.status.success() {
        return Ok(());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match answer["msg"].as_str() {
        Some(said) => bail!("calico-ipam {verb}: {said}"),
        None => bail!("calico-ipam {verb}: {}", output.failure()),
    }
}

/// Writes on the Pod what Calico's plugin writes: its addresses, and the sandbox that has them. With no addresses, takes it away.
pub fn annotate(kube: &Kube, pod: &Attachment, ips: &[IpAddr]) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name);
    let patched = kube.patch(&path, Patch::Merge, &annotations(pod, ips), Write::default());
    match patched {
        // The pod was deleted meanwhile, or another of its name has come.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other.map(drop).with_context(|| format!("could not annotate the pod {}/{}", pod.namespace, pod.name)),
    }
}

/// That patch. Pure.
fn annotations(pod: &Attachment, ips: &[IpAddr]) -> Value {
    let full: Vec<String> = ips.iter().map(|ip| ipnet::IpNet::from(*ip).to_string()).collect();
    let key = |name: &str| format!("cni.projectcalico.org/{name}");
    let some = |text: String| if ips.is_empty() { Value::Null } else { json!(text) };
    json!({"metadata": {
        // The server refuses a patch that names another uid.
        "uid": pod.uid,
        "annotations": {
            key("podIP"): some(full.first().cloned().unwrap_or_default()),
            key("podIPs"): some(full.join(",")),
            key("containerID"): some(pod.container.clone()),
        },
    }})
}

/// The shim's record of an adopted pod: its DEL goes to Calico, and then to those of flannel's chain that have left something
/// under flannel's name (portmap's rules, bandwidth's device: [`chained`]). Its address in host-local and flannel's own note are not
/// Calico's to free; they are kept for the way back, and cleaned with the rest of flannel. Pure.
pub fn adopted(record: &Record, installed: &Installed, bin_dir: &Path, host_interface: &str) -> Record {
    let first = record.del.first();
    let calico = DelList {
        network: installed.network.clone(),
        cni_version: installed.version.clone(),
        // The others of Calico's list have never seen this pod.
        plugins: vec![PluginCall {
            kind: "calico".into(),
            path: bin_dir.join("calico"),
            config: installed.entry.clone(),
        }],
        runtime_config: Map::new(),
        args: first.map(|list| list.args.clone()).unwrap_or_default(),
        disable_check: first.is_some_and(|list| list.disable_check),
    };
    let rest = chained::rest(&record.del, &["flannel"]);
    Record {
        backend: Backend::Calico,
        del: std::iter::once(calico).chain(rest).collect(),
        result: record.result.as_ref().map(|result| as_calicos(result, host_interface, &installed.version)),
        flannel_scratch: None,
        ..record.clone()
    }
}

/// A result as Calico's plugin would have given it: the host's interface, the pod's, the addresses alone.
fn as_calicos(result: &Value, host_interface: &str, version: &str) -> Value {
    let inside = result["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|i| i["sandbox"].as_str().is_some_and(|s| !s.is_empty()));
    let ips: Vec<Value> = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| {
            let address: ipnet::IpNet = ip["address"].as_str()?.parse().ok()?;
            let mut alone = json!({"address": ipnet::IpNet::from(address.addr()).to_string(), "interface": 1});
            if version.starts_with("0.") {
                alone["version"] = json!(if address.addr().is_ipv4() { "4" } else { "6" });
            }
            Some(alone)
        })
        .collect();
    let mut interfaces = vec![json!({"name": host_interface, "mac": super::CALICO_MAC})];
    interfaces.extend(inside.cloned());
    json!({"cniVersion": version, "interfaces": interfaces, "ips": ips, "dns": {}})
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn installed(version: &str) -> Installed {
        let list = json!({"name": "k8s-pod-network", "cniVersion": version, "plugins": [
            {"type": "calico", "datastore_type": "kubernetes", "ipam": {"type": "calico-ipam"},
             "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}},
            {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}]});
        Installed::of(&List::parse(list.to_string().as_bytes()).unwrap()).unwrap()
    }

    fn pod() -> Attachment {
        Attachment {
            container: "abc".into(),
            ifname: "eth0".into(),
            netns: "/run/netns/x".into(),
            namespace: "default".into(),
            name: "web-0".into(),
            uid: "u-1".into(),
            ips: vec!["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        }
    }

    #[test]
    fn whose_an_address_is() {
        let mut allocations = vec![Value::Null; 64];
        (allocations[7], allocations[8], allocations[9]) = (json!(1), json!(0), json!(9));
        let block = |cidr: &str| {
            json!({"spec": {"cidr": cidr, "allocations": allocations,
                "attributes": [{"secondary": {}}, {"handle_id": "k8s-pod-network.abc"}]}})
        };
        let blocks = [block("10.244.2.0/26"), block("10.244.1.0/26"), block("fd00::/122"), json!({})];
        let of = |ip: &str| holder(&blocks, ip.parse().unwrap());
        assert_eq!(of("10.244.1.7").as_deref(), Some("k8s-pod-network.abc"));
        assert_eq!(of("fd00::7").as_deref(), Some("k8s-pod-network.abc"));
        assert_eq!(of("10.244.1.8").as_deref(), Some("an unnamed holder"));
        for free in ["10.244.1.6", "10.244.1.9", "10.244.1.70", "10.9.9.9", "fd01::7"] {
            assert_eq!(of(free), None, "{free}");
        }
    }

    #[test]
    fn the_plugin_is_asked_as_a_runtime_would() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let program = folder.path().join("calico-ipam");
        let answer = r#"{"code":999,"msg":"Assigned IP already"}"#;
        let script = format!(
            "#!/bin/sh\n{{ env | grep ^CNI_ | sort; cat; echo; }} >> {}\n[ ! -e {}/fail ] || {{ echo '{answer}'; exit 1; }}\n",
            said.display(),
            folder.path().display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        call(&installed("1.0.0"), &pod(), folder.path(), "ADD", Some("10.244.1.7".parse().unwrap())).unwrap();
        let text = std::fs::read_to_string(&said).unwrap();
        let conf: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&conf["name"], &conf["cniVersion"], &conf["type"]),
            (&json!("k8s-pod-network"), &json!("1.0.0"), &json!("calico"))
        );
        let args = "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;IP=10.244.1.7";
        assert!(text.lines().any(|line| line == args), "{text}");
        assert!(text.contains("CNI_CONTAINERID=abc") && text.contains("CNI_COMMAND=ADD"), "{text}");
        std::fs::write(folder.path().join("fail"), "").unwrap();
        let error = format!("{:#}", release(&installed("1.0.0"), &pod(), folder.path()).unwrap_err());
        assert!(error.contains("web-0") && error.contains("Assigned IP already"), "{error}");
    }

    #[test]
    fn annotations_are_those_of_calicos_plugin() {
        let pod = pod();
        let patch = annotations(&pod, &pod.ips);
        let written = &patch["metadata"]["annotations"];
        assert_eq!(written["cni.projectcalico.org/podIP"], "10.244.1.7/32");
        assert_eq!(written["cni.projectcalico.org/podIPs"], "10.244.1.7/32,fd00::7/128");
        assert_eq!(
            (&written["cni.projectcalico.org/containerID"], &patch["metadata"]["uid"]),
            (&json!("abc"), &json!("u-1"))
        );
        let taken = annotations(&pod, &[]);
        assert!(taken["metadata"]["annotations"].as_object().unwrap().values().all(Value::is_null), "{taken}");
    }

    #[test]
    fn the_record_sends_its_del_to_calico_and_to_flannels_leftovers() {
        let call = |kind: &str| PluginCall {
            kind: kind.into(),
            path: format!("/opt/cni/bin/{kind}").into(),
            config: Map::new(),
        };
        let ports = json!({"portMappings": [{"hostPort": 8080}], "bandwidth": {"ingressRate": 1}});
        let ports = ports.as_object().unwrap().clone();
        let list = DelList {
            network: "cbr0".into(),
            cni_version: "0.3.1".into(),
            plugins: ["flannel", "portmap", "bandwidth"].map(call).to_vec(),
            runtime_config: ports.clone(),
            args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0".into(),
            disable_check: false,
        };
        let mut record = Record::new("abc", "eth0", Backend::Flannel, vec![list.clone()]);
        record.flannel_scratch = Some("{}".into());
        record.result = Some(json!({"cniVersion": "0.3.1", "dns": {},
            "interfaces": [{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "mac": "aa", "sandbox": "/run/netns/x"}],
            "ips": [{"version": "4", "interface": 2, "address": "10.244.1.7/24", "gateway": "10.244.1.1"}]}));
        let now = adopted(&record, &installed("1.0.0"), Path::new("/opt/cni/bin"), "cali123");
        let networks: Vec<_> = now
            .del
            .iter()
            .map(|l| (l.network.as_str(), l.plugins.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>()))
            .collect();
        assert_eq!(networks, [("k8s-pod-network", vec!["calico"]), ("cbr0", vec!["portmap", "bandwidth"])]);
        assert_eq!((&now.del[1].runtime_config, &now.del[0].args, now.backend), (&ports, &list.args, Backend::Calico));
        assert_eq!(now.flannel_scratch, None, "or its DEL would free what is kept for the way back");
        assert_eq!(now.del[0].plugins[0].config["ipam"]["type"], "calico-ipam");
        let result = now.result.unwrap();
        assert_eq!(result["ips"], json!([{"address": "10.244.1.7/32", "interface": 1}]));
        assert_eq!(
            (&result["interfaces"][0]["name"], &result["interfaces"][1]["name"]),
            (&json!("cali123"), &json!("eth0"))
        );
        let older = adopted(&record, &installed("0.3.1"), Path::new("/opt/cni/bin"), "cali123").result.unwrap();
        assert_eq!(older["ips"][0]["version"], "4");
        let bare = Record { del: vec![DelList { plugins: vec![call("flannel")], ..list }], ..record };
        assert_eq!(adopted(&bare, &installed("1.0.0"), Path::new("/opt/cni/bin"), "cali123").del.len(), 1);
    }

    #[test]
    fn a_conflist_without_calico_is_refused() {
        let list = List::parse(br#"{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#).unwrap();
        assert!(Installed::of(&list).unwrap_err().to_string().contains("To fix it: "));
    }
}
