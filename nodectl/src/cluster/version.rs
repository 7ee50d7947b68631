//! Versions, as far as an image's tag tells them.

/// Major, minor and patch level.
pub type Version = (u32, u32, u32);

/// The version in an image's tag, with the tag's own spelling; `None` where the tag is none (`latest`, a digest).
pub fn of_image(image: &str) -> Option<(Version, String)> {
    let name = image.split('@').next()?;
    // The first colon may be that of a registry's port.
    let tag = name.rsplit('/').next()?.split_once(':')?.1;
    // Older tags carry the architecture: v0.12.0-amd64.
    let text = tag.split('-').next()?;
    Some((parse(text)?, text.to_owned()))
}

/// Parses `v3.31.0` or `3.31`.
pub fn parse(text: &str) -> Option<Version> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split('.').map(|part| part.parse::<u32>().ok());
    let major = parts.next()??;
    let minor = parts.next()??;
    let patch = parts.next().flatten().unwrap_or(0);
    Some((major, minor, patch))
}
