//! The operations on objects: what remains of a request once it is known who asks and what for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::identity::{Tokens, User};
use super::node_restriction::{self, Attempt};
use super::options::Regime;
use super::resources::{self, ResourceType};
use super::selector::{Fields, Labels};
use super::store::{Inner, Key, Store};
use super::strategy;
use super::value::{self, default_to, text};

/// The object store with the rules of its types.
pub struct Api {
    /// The objects.
    pub store: Store,
    /// Whose refusals to give.
    pub regime: Regime,
    /// Issuer of ServiceAccount tokens.
    pub tokens: Tokens,
}

/// One object, or the collection it is in.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its type.
    pub kind: ResourceType,
    /// Empty for objects of the whole cluster.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    /// Empty, or "status".
    pub subresource: String,
}

impl Target {
    /// Its key in the store.
    pub fn key(&self) -> Key {
        Key::new(&self.kind.group_resource(), &self.namespace, &self.name)
    }

    /// Where an object of this collection is kept.
    pub fn key_of(&self, name: &str) -> Key {
        Key::new(&self.kind.group_resource(), &self.namespace, name)
    }

    /// 404 for it.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.kind.group_resource(), &self.name)
    }
}

/// What a list asks for.
#[derive(Debug, Default)]
pub struct ListQuery {
    /// Label selector.
    pub labels: Labels,
    /// Field selector.
    pub fields: Fields,
    /// At most so many; 0: all.
    pub limit: usize,
    /// From an earlier answer.
    pub continue_after: Option<String>,
}

impl Api {
    /// The type behind a group, a version and a plural name.
    pub fn resource(&self, group: &str, version: &str, resource: &str) -> Option<ResourceType> {
        self.store.transaction(|store| resources::lookup(self.regime, store, group, version, resource))
    }

    /// The target of the built-in resource or custom resource "daemonsets.apps", in whatever version is served.
    pub fn target(&self, group_resource: &str, namespace: &str, name: &str) -> ApiResult<Target> {
        let kind = self.store.transaction(|store| resources::by_group_resource(self.regime, store, group_resource));
        let kind =
            kind.ok_or_else(|| ApiError::new(404, "NotFound", "the server could not find the requested resource"))?;
        Ok(Target { kind, namespace: namespace.into(), name: name.into(), subresource: String::new() })
    }

    /// Reads one object.
    pub fn get(&self, target: &Target) -> ApiResult<Value> {
        let object = self.store.transaction(|store| store.get(&target.key()));
        let object = object.ok_or_else(|| target.not_found())?;
        Ok(present(&target.kind, &object))
    }

    /// Lists a collection.
    pub fn list(&self, target: &Target, query: &ListQuery) -> ApiResult<Value> {
        let after = query.continue_after.as_deref().map(read_continue).transpose()?;
        let group_resource = target.kind.group_resource();
        let namespace = (!target.namespace.is_empty()).then_some(target.namespace.as_str());
        let (revision, found, more) = self.store.transaction(|store| {
            let revision = after.as_ref().map_or(store.revision(), |(revision, ..)| *revision);
            if revision < store.compacted() && after.is_some() {
                return Err(ApiError::new(
                    410,
                    "Expired",
                    "The provided continue parameter is too old to display a consistent list result.",
                ));
            }
            let objects = store.list(&group_resource, namespace).filter(|(key, object)| {
                after.as_ref().is_none_or(|(_, space, name)| (&key.namespace, &key.name) > (space, name))
                    && query.labels.matches(object)
                    && query.fields.matches(object)
            });
            let mut found: Vec<(Key, Arc<Value>)> =
                objects.map(|(key, object)| (key.clone(), object.clone())).collect();
            let more = query.limit > 0 && found.len() > query.limit;
            if more {
                found.truncate(query.limit);
            }
            Ok((revision, found, more))
        })?;
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if more && let Some((key, _)) = found.last() {
            metadata["continue"] = json!(write_continue(revision, key));
        }
        let items: Vec<Value> = found.iter().map(|(_, object)| listed(&target.kind, object)).collect();
        Ok(json!({"kind": format!("{}List", target.kind.kind), "apiVersion": target.kind.api_version(),
            "metadata": metadata, "items": items}))
    }

    /// Creates an object.
    pub fn create(&self, user: &User, target: &Target, mut object: Value, dry_run: bool) -> ApiResult<Value> {
        self.identify(target, &mut object)?;
        self.store.transaction(|store| {
            let name = text(&object["metadata"]["name"]).to_string();
            let key = target.key_of(&name);
            check_namespace(store, target, &name)?;
            self.admit(
                store,
                user,
                &Attempt {
                    resource: &key.resource,
                    subresource: "",
                    verb: "create",
                    namespace: &key.namespace,
                    name: &name,
                    old: None,
                    new: Some(&object),
                },
            )?;
            strategy::on_create(store, &target.kind, &mut object)?;
            if store.get(&key).is_some() {
                return Err(ApiError::already_exists(&key.resource, &name));
            }
            stamp(&mut object);
            if dry_run {
                return Ok(object);
            }
            let object = store.put(key, object);
            strategy::after_create(store, &target.kind, &object);
            Ok(present(&target.kind, &object))
        })
    }

    /// Runs the admission that applies to this user.
    pub fn admit(&self, store: &Inner, user: &User, attempt: &Attempt<'_>) -> ApiResult<()> {
        match user.node() {
            Some(node) => node_restriction::admit(store, self.regime, node, attempt),
            None => Ok(()),
        }
    }

    /// Name, namespace, kind and version of a new object.
    fn identify(&self, target: &Target, object: &mut Value) -> ApiResult<()> {
        if !object.is_object() {
            return Err(ApiError::bad_request("the body of the request is not a JSON object"));
        }
        let kind = text(&object["kind"]);
        if kind.is_empty() && target.kind.custom {
            return Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): Object 'Kind' is missing in '{object}'",
                target.kind.kind
            )));
        }
        if !kind.is_empty() && kind != target.kind.kind {
            return Err(ApiError::bad_request(format!(
                "{kind} in version \"{}\" cannot be handled as a {}",
                text(&object["apiVersion"]),
                target.kind.kind
            )));
        }
        object["kind"] = json!(target.kind.kind);
        object["apiVersion"] = json!(target.kind.api_version());
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = &mut object["metadata"];
        value::remove(metadata, "resourceVersion");
        if target.kind.namespaced {
            default_to(metadata, "namespace", json!(target.namespace));
            if metadata["namespace"] != target.namespace {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        } else {
            value::remove(metadata, "namespace");
        }
        if text(&metadata["name"]).is_empty() {
            let prefix = text(&metadata["generateName"]).to_string();
            if prefix.is_empty() {
                return Err(ApiError::invalid(
                    &target.kind.kind,
                    "",
                    "metadata.name",
                    "Required value: name or generateName is required",
                ));
            }
            metadata["name"] = json!(format!("{prefix}{}", value::name_suffix()));
        }
        check_name(&target.kind, text(&metadata["name"]))
    }
}

/// The object as the requested version shows it.
pub fn present(kind: &ResourceType, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.kind);
    object
}

/// The object as an item of a list: built-in ones do not repeat there what the list says of its kind.
fn listed(kind: &ResourceType, object: &Value) -> Value {
    let mut object = present(kind, object);
    if !kind.custom {
        value::remove(&mut object, "apiVersion");
        value::remove(&mut object, "kind");
    }
    object
}

fn stamp(object: &mut Value) {
    let specified = object["spec"].is_object();
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(value::new_uid());
    metadata["creationTimestamp"] = json!(value::now());
    if specified {
        metadata["generation"] = json!(1);
    }
    value::remove(metadata, "deletionTimestamp");
    value::remove(metadata, "deletionGracePeriodSeconds");
}

fn check_name(kind: &ResourceType, name: &str) -> ApiResult<()> {
    let fits =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || "-.".contains(character);
    let roles = kind.group == "rbac.authorization.k8s.io";
    if name.len() <= 253 && (roles || name.chars().all(fits)) {
        return Ok(());
    }
    let why = format!(
        "Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
    );
    Err(ApiError::invalid(&kind.kind, name, "metadata.name", &why))
}

fn check_namespace(store: &Inner, target: &Target, name: &str) -> ApiResult<()> {
    if !target.kind.namespaced {
        return Ok(());
    }
    let namespace = store.find("namespaces", "", &target.namespace);
    let namespace = namespace.ok_or_else(|| ApiError::not_found("namespaces", &target.namespace))?;
    if namespace["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {} because it is being terminated", target.namespace);
    Err(ApiError::forbidden(&target.kind.group_resource(), name, &why)
        .with_cause("NamespaceTerminating", &format!("namespace {} is being terminated", target.namespace)))
}

fn write_continue(revision: u64, key: &Key) -> String {
    use base64::Engine;
    let token = json!([revision, key.namespace, key.name]).to_string();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token)
}

fn read_continue(token: &str) -> ApiResult<(u64, String, String)> {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).ok();
    decoded
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| ApiError::bad_request("continue key is not valid: illegal base64 data"))
}
