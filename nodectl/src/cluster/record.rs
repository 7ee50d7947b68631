//! The record: a ConfigMap that says what was there before the first prepare, so that abort can put it back and finish
//! knows what flannel was installed from, whoever runs them, from whichever machine, and however often they are broken
//! off. (Calico drops foreign annotations of its own objects when it writes them, so they cannot say it themselves.)

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::calico::Calico;
use super::change::{Change, merge_patch};
use super::check::Check;
use super::decision::Survey;
use super::flannel::Flannel;
use super::ipam;
use super::node::NodeView;
use super::object::{Kind, ObjectRef, name, set};

/// Namespace of the record.
pub const NAMESPACE: &str = "kube-system";
/// Name of the record.
pub const NAME: &str = "nodectl-cluster";
/// Its key.
const KEY: &str = "record.json";
/// Version of its form.
const FORMAT: u32 = 1;

/// What was there before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// Who ran the first prepare.
    pub prepared_by: String,
    /// When, RFC 3339.
    pub prepared_at: String,
    /// What flannel consists of.
    pub flannel: FlannelParts,
    /// Calico's DaemonSet.
    pub calico: DaemonSetName,
    /// The objects that prepare changed, and how they were.
    pub before: Vec<Remembered>,
    /// Blocks of the nodes' pod CIDRs that were there before.
    pub blocks: Vec<String>,
}

/// How one object was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// The object.
    pub object: ObjectRef,
    /// The merge patch that puts it back as it was, `null` for an object that was not there.
    pub before: Value,
}

/// What flannel consists of, for the time when its DaemonSet cannot be asked any more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlannelParts {
    /// Namespace.
    pub namespace: String,
    /// DaemonSets.
    pub daemon_sets: Vec<String>,
    /// ConfigMap.
    pub config_map: Option<String>,
    /// ServiceAccount.
    pub service_account: Option<String>,
    /// What its annotations' names begin with.
    pub annotation_prefix: String,
}

/// A DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonSetName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The record's own name.
pub fn target() -> ObjectRef {
    ObjectRef::namespaced(Kind::ConfigMap, NAMESPACE, NAME)
}

/// Reads the record for a decision; a check refuses where one is there that cannot be read, for only it knows what was there before.
/// `without` is what it comes to to go on without it.
pub fn known(config_map: Option<&Value>, without: &str) -> (Option<Record>, Check) {
    const CHECK: &str = "record";
    match Record::read(config_map) {
        Ok(None) => (None, Check::passed(CHECK, "there is no record of an earlier prepare")),
        Ok(known) => (known, Check::passed(CHECK, "the record of what was there before prepare was read")),
        Err(problem) => {
            let fix = format!(
                "use a nodectl at least as new as the one that ran prepare. Where the record is broken, the backups of prepare (cluster-*.json \
                 in /var/lib/nodectl/backup, or --backup-dir) have the objects as they were; kubectl -n {NAMESPACE} delete configmap {NAME} \
                 goes on without it: {without}"
            );
            let finding =
                format!("the record of what was there before prepare ({}) cannot be read: {problem}", target());
            (None, Check::refused(CHECK, finding, fix))
        }
    }
}

impl Record {
    /// Reads the record; `None` where there is none. Errors say why one that is there cannot be read.
    pub fn read(config_map: Option<&Value>) -> Result<Option<Record>, String> {
        let Some(config_map) = config_map else { return Ok(None) };
        let text = config_map.pointer("/data").and_then(|data| data.get(KEY)?.as_str());
        let text = text.ok_or_else(|| format!("it has no {KEY}"))?;
        let value: Value = serde_json::from_str(text).map_err(|e| format!("{KEY} is not JSON: {e}"))?;
        // The format first: another one may have other fields.
        match value.get("format").and_then(Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(format!("it has format {format}, this nodectl reads format {FORMAT}")),
            None => return Err(format!("{KEY} tells no format")),
        }
        serde_json::from_value(value).map(Some).map_err(|e| format!("{KEY} does not fit: {e}"))
    }

    /// The write that adds to the record what these changes are about to overwrite. What it knows already stays, so
    /// that a second prepare never takes the first one's work for the cluster's own.
    pub fn extended(
        survey: &Survey,
        known: Option<Record>,
        flannel: &Flannel,
        calico: &Calico,
        changes: &[Change],
    ) -> Option<Change> {
        let existing = survey.facts.record.as_ref();
        if known.is_none() && changes.is_empty() {
            return None;
        }
        let first = known.is_none();
        let mut record = known.unwrap_or_else(|| Record {
            format: FORMAT,
            prepared_by: survey.facts.user.clone(),
            prepared_at: survey.request.now.rfc3339.clone(),
            blocks: survey.facts.ipam_blocks.iter().map(|b| name(b).to_owned()).collect(),
            ..Record::default()
        });
        record.flannel = flannel.parts();
        record.calico = DaemonSetName { namespace: calico.namespace.clone(), name: calico.daemon_set.clone() };
        for change in changes.iter().filter(|c| is_recorded(c, first)) {
            record.remember(change);
        }
        let mut wanted = existing.cloned().unwrap_or_else(|| target().skeleton());
        let text = serde_json::to_string(&record).unwrap_or_default();
        set(&mut wanted, &["data", KEY], json!(text));
        let reason = "remembers what was there before, for abort and finish";
        match existing {
            Some(existing) => Change::update(target(), existing, wanted, reason),
            None => Some(Change::create(target(), wanted, reason)),
        }
    }

    /// Remembers what one change overwrites. What is known of a field stays: it is the older.
    fn remember(&mut self, change: &Change) {
        let before = match (&change.before, &change.after) {
            (Some(before), Some(after)) => inverse(before, after),
            _ => Value::Null,
        };
        match self.before.iter_mut().find(|r| r.object == change.target) {
            Some(known) => add_missing(&mut known.before, before),
            None => self.before.push(Remembered { object: change.target.clone(), before }),
        }
    }

    /// How an object was before: the patch that puts it back, `Null` where it was not there, `None` where prepare did
    /// not overwrite anything of it.
    pub fn before(&self, target: &ObjectRef) -> Option<&Value> {
        self.before.iter().find(|r| r.object == *target).map(|r| &r.before)
    }
}

/// Blocks and handles are many and follow from the nodes; what comes back of a Node is taken away by name unless it
/// had a value before. Later prepares meet nodes that joined and objects that somebody changed: only of nodes is there
/// something to learn then.
fn is_recorded(change: &Change, first: bool) -> bool {
    match change.target.kind {
        Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle => false,
        Kind::Node => first && overwrites(change),
        _ => true,
    }
}

/// The change replaces a value that was there, rather than adding one.
fn overwrites(change: &Change) -> bool {
    change.fields().iter().any(|f| !f.before.is_null())
}

/// The merge patch that undoes a change, field by field: a map that was made for one field is not taken away whole, for
/// somebody may put something else into it meanwhile.
fn inverse(before: &Value, after: &Value) -> Value {
    let mut undo = merge_patch(after, before).unwrap_or_else(|| json!({}));
    let added = merge_patch(before, after).unwrap_or_else(|| json!({}));
    spell_out(&mut undo, &added);
    undo
}

/// Replaces the removal of a whole map by the removal of the fields that were put into it.
fn spell_out(undo: &mut Value, added: &Value) {
    let (Some(undo), Some(added)) = (undo.as_object_mut(), added.as_object()) else { return };
    for (key, removal) in undo.iter_mut() {
        match added.get(key) {
            Some(map @ Value::Object(_)) => {
                if removal.is_null() {
                    *removal = json!({});
                    for field in map.as_object().into_iter().flat_map(Map::keys) {
                        set(removal, &[field], Value::Null);
                    }
                }
                spell_out(removal, map);
            }
            _ => continue,
        }
    }
}

/// Adds the fields of a patch that this one says nothing of. Where it puts back something else than a map, it says all.
fn add_missing(patch: &mut Value, other: Value) {
    let (Some(patch), Value::Object(other)) = (patch.as_object_mut(), other) else { return };
    for (key, value) in other {
        match patch.get_mut(&key) {
            Some(known) => add_missing(known, value),
            None => {
                patch.insert(key, value);
            }
        }
    }
}

/// Applies such a patch; a map that it empties goes.
pub fn undo(object: &mut Value, patch: &Value) {
    let (Some(map), Some(patch)) = (object.as_object_mut(), patch.as_object()) else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                map.shift_remove(key);
            }
            Value::Object(_) => {
                let field = map.entry(key.clone()).or_insert_with(|| json!({}));
                undo(field, value);
                if field.as_object().is_some_and(Map::is_empty) {
                    map.shift_remove(key);
                }
            }
            other => {
                map.insert(key.clone(), other.clone());
            }
        }
    }
}

impl Flannel {
    /// What flannel consists of.
    pub fn parts(&self) -> FlannelParts {
        FlannelParts {
            namespace: self.namespace.clone(),
            daemon_sets: self.daemon_sets.clone(),
            config_map: self.config_map.clone(),
            service_account: self.service_account.clone(),
            annotation_prefix: self.annotation_prefix.clone(),
        }
    }
}

/// The blocks that prepare made: those that lie in a node's pod CIDR and were not there before, whatever their size.
pub struct BlocksMade {
    pod_cidrs: BTreeMap<IpAddr, IpNet>,
    before: BTreeSet<String>,
}

impl BlocksMade {
    /// By what the record says was there before.
    pub fn new(survey: &Survey, record: &Record) -> BlocksMade {
        let both = |n: &NodeView| [n.pod_cidr.map(IpNet::V4), n.pod_cidr6.map(IpNet::V6)];
        let pod_cidrs = survey.nodes.iter().flat_map(both).flatten().map(|c| (c.network(), c)).collect();
        BlocksMade { pod_cidrs, before: record.blocks.iter().cloned().collect() }
    }

    /// Whether this is one of them.
    pub fn contains(&self, block: IpNet) -> bool {
        let below = self.pod_cidrs.range(..=block.network()).next_back();
        below.is_some_and(|(_, cidr)| cidr.contains(&block)) && !self.before.contains(&ipam::block_ref(block).name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_prepare_adds_to_a_known_object_goes_back_too() {
        let felix = || ObjectRef::cluster(Kind::FelixConfiguration, "default");
        let own = json!({"spec": {"vxlanPort": 4789, "vxlanMTU": 1440}});
        let first = json!({"spec": {"vxlanPort": 8472, "vxlanMTU": 1440, "vxlanVNI": 1}});
        let later = json!({"spec": {"vxlanPort": 4790, "vxlanMTU": 1450, "vxlanVNI": 1, "vxlanMTUV6": 1430}});
        let mut record = Record::default();
        for (before, after) in [(&own, &first), (&first, &later)] {
            record.remember(&Change::update(felix(), before, after.clone(), "").unwrap());
        }
        let mut put_back = later;
        undo(&mut put_back, record.before(&felix()).unwrap());
        assert_eq!(put_back, own);
    }

    #[test]
    fn an_object_that_was_not_there_stays_so() {
        let felix = || ObjectRef::cluster(Kind::FelixConfiguration, "default");
        let made = json!({"spec": {"vxlanVNI": 1}});
        let mut record = Record::default();
        record.remember(&Change::create(felix(), made.clone(), ""));
        record.remember(&Change::update(felix(), &made, json!({"spec": {"vxlanVNI": 2}}), "").unwrap());
        assert_eq!(record.before(&felix()), Some(&Value::Null));
    }
}
