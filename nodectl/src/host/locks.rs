//! Who holds a lock on a file, as the kernel tells.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Processes that hold a lock on this file, of either kind; none where there is no such file. The file is not touched.
pub fn holders(path: &Path) -> Result<Vec<u32>> {
    let inode = match std::fs::metadata(path) {
        Ok(file) => file.ino(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("could not look at the lock {}", path.display())),
    };
    let locks = std::fs::read_to_string("/proc/locks").context("could not read /proc/locks")?;
    // A file of another file system may have the same number, and a layered one has numbers of its own.
    Ok(holders_of(&locks, inode).into_iter().filter(|pid| has_open(*pid, path)).collect())
}

/// Pids of those that have locked the file of this number, by the text of /proc/locks. A line of one who waits begins with `->`.
pub fn holders_of(locks: &str, inode: u64) -> Vec<u32> {
    let holds = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK" | "POSIX" | "OFDLCK", _, _, pid, file, ..] = words[..] else { return None };
        let number: u64 = file.rsplit(':').next()?.parse().ok()?;
        (number == inode).then(|| pid.parse().ok())?
    };
    locks.lines().filter_map(holds).collect()
}

fn has_open(pid: u32, path: &Path) -> bool {
    let name = path.file_name();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|target| target.file_name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_file() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("lock-frontend");
        assert_eq!(holders(&path).unwrap(), Vec::<u32>::new());
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(holders(&path).unwrap(), Vec::<u32>::new());
        file.lock().unwrap();
        assert_eq!(holders(&path).unwrap(), [std::process::id()]);
        let text = "1: POSIX  ADVISORY  WRITE 11 00:1a:77 0 EOF\n1: -> POSIX  ADVISORY  WRITE 12 00:1a:77 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 13 00:1a:78 0 EOF\n3: OFDLCK ADVISORY  WRITE -1 00:1a:77 0 EOF\n";
        assert_eq!(holders_of(text, 77), [11]);
    }
}
