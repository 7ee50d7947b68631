//! The four ways to change a part of an object.

mod apply;
mod json_patch;
mod merge;
mod strategic;

use serde_json::Value;

use super::error::{ApiError, ApiResult};

pub use apply::Applier;

/// The kind of a patch, from its Content-Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' own: lists of known fields merge by key.
    Strategic,
    /// RFC 6902.
    Json,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// Reads the Content-Type; 415 for others, and for strategic patches of custom resources.
    pub fn from_content_type(content_type: &str, custom: bool) -> ApiResult<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Strategic),
            "application/json-patch+json" => Ok(Self::Json),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    /// The Content-Type to send.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Json => "application/json-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// The object as the patch leaves it.
pub fn patched(kind: PatchKind, old: &Value, patch: &Value, applier: &Applier<'_>) -> ApiResult<Value> {
    if kind != PatchKind::Json && !patch.is_object() {
        return Err(ApiError::bad_request("the patch is not an object"));
    }
    match kind {
        PatchKind::Merge => {
            let mut object = old.clone();
            merge::merge(&mut object, patch);
            Ok(object)
        }
        PatchKind::Strategic => {
            let mut object = old.clone();
            strategic::merge(&mut object, patch);
            Ok(object)
        }
        PatchKind::Json => json_patch::run(old, patch),
        PatchKind::Apply => applier.run(old, patch),
    }
}
