//! PUT and PATCH.

use serde_json::{Value, json};

use super::api::{Api, Target, present};
use super::error::{ApiError, ApiResult};
use super::identity::User;
use super::node_restriction::Attempt;
use super::patch::{Applier, PatchKind, patched};
use super::store::Inner;
use super::strategy;
use super::value::{items, text};

/// How a PATCH is to be done.
pub struct PatchRequest<'a> {
    /// From the Content-Type.
    pub kind: PatchKind,
    /// The body.
    pub patch: &'a Value,
    /// `fieldManager`.
    pub manager: &'a str,
    /// `force`, for server-side apply.
    pub force: bool,
}

/// What a write answers: the object, and whether it is a new one.
pub struct Written {
    /// The object as stored.
    pub object: Value,
    /// Created by this request (server-side apply).
    pub created: bool,
}

impl Api {
    /// Replaces an object.
    pub fn update(&self, user: &User, target: &Target, object: Value, dry_run: bool) -> ApiResult<Value> {
        let unversioned = text(&object["metadata"]["resourceVersion"]).is_empty();
        self.store.transaction(|store| {
            let old = store.get(&target.key()).ok_or_else(|| target.not_found())?;
            if unversioned && target.kind.custom {
                return Err(ApiError::invalid(
                    &target.kind.kind,
                    &target.name,
                    "metadata.resourceVersion",
                    "Invalid value: 0x0: must be specified for an update",
                ));
            }
            let wanted = text(&object["metadata"]["uid"]);
            let actual = text(&old["metadata"]["uid"]);
            if !wanted.is_empty() && wanted != actual {
                return Err(uid_mismatch(target, wanted, actual));
            }
            self.write(store, user, target, &old, object, dry_run)
        })
    }

    /// Changes a part of an object; creates it, for server-side apply.
    pub fn patch(&self, user: &User, target: &Target, request: &PatchRequest<'_>, dry_run: bool) -> ApiResult<Written> {
        let applier = Applier { manager: request.manager, force: request.force };
        let existing = self.store.transaction(|store| store.get(&target.key()).is_some());
        if !existing && request.kind == PatchKind::Apply && target.subresource.is_empty() {
            let empty = json!({"apiVersion": target.kind.api_version(), "kind": target.kind.kind, "metadata": {"name": target.name}});
            let object = patched(request.kind, &empty, request.patch, &applier)?;
            let object = self.create(user, target, object, dry_run)?;
            return Ok(Written { object, created: true });
        }
        self.store.transaction(|store| {
            let old = store.get(&target.key()).ok_or_else(|| target.not_found())?;
            let new = patched(request.kind, &old, request.patch, &applier)?;
            if !text(&new["metadata"]["uid"]).is_empty() && new["metadata"]["uid"] != old["metadata"]["uid"] {
                let why = format!("Invalid value: {}: field is immutable", new["metadata"]["uid"]);
                return Err(ApiError::invalid(&target.kind.kind, &target.name, "metadata.uid", &why));
            }
            let object = self.write(store, user, target, &old, new, dry_run)?;
            Ok(Written { object, created: false })
        })
    }

    fn write(
        &self,
        store: &mut Inner,
        user: &User,
        target: &Target,
        old: &Value,
        mut new: Value,
        dry_run: bool,
    ) -> ApiResult<Value> {
        let resource = target.kind.group_resource();
        if !new["metadata"].is_object() {
            new["metadata"] = json!({});
        }
        let name = text(&new["metadata"]["name"]);
        if !name.is_empty() && name != target.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name
            )));
        }
        let version = text(&new["metadata"]["resourceVersion"]);
        if !version.is_empty() && new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return Err(ApiError::modified(&resource, &target.name));
        }
        self.admit(
            store,
            user,
            &Attempt {
                resource: &resource,
                subresource: &target.subresource,
                verb: "update",
                namespace: &target.namespace,
                name: &target.name,
                old: Some(old),
                new: Some(&new),
            },
        )?;
        strategy::on_update(&target.kind, &target.subresource, old, &mut new)?;
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if new == *old || dry_run {
            return Ok(present(&target.kind, &new));
        }
        if finished(&new) {
            store.remove(&target.key());
            return Ok(present(&target.kind, &new));
        }
        let stored = store.put(target.key(), new);
        Ok(present(&target.kind, &stored))
    }
}

/// A deleted object goes when its last finalizer goes, unless it still has its grace.
fn finished(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let deleted = !metadata["deletionTimestamp"].is_null();
    let grace = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let namespace_content = object["kind"] == "Namespace" && items(&object["spec"]["finalizers"]).next().is_some();
    deleted && grace == 0 && items(&metadata["finalizers"]).next().is_none() && !namespace_content
}

/// 409 for an object of the same name that is not the same.
pub fn uid_mismatch(target: &Target, wanted: &str, actual: &str) -> ApiError {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}");
    ApiError::conflict(&target.kind.group_resource(), &target.name, &why)
}
