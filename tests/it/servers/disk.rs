//! A small file system of a test's own, in memory, which can be filled to the last byte and emptied again.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether a command can be run here and succeeds.
pub fn can(command: &str, arguments: &[&str]) -> bool {
    Command::new(command).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// It goes with this value.
pub struct SmallDisk {
    at: PathBuf,
    ballast: Option<File>,
}

impl SmallDisk {
    /// One of so many MiB at `at`; `None`, and a word about it, where none may be mounted.
    pub fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={mebibytes}m,mode=700");
        if !can("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &at.display().to_string()]) {
            eprintln!("skipped: no file system may be mounted here (needs root)");
            return None;
        }
        Some(Self { at: at.to_owned(), ballast: None })
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Takes what room there is; again, what has come free since.
    pub fn fill(&mut self) {
        let at = self.at.join("ballast");
        let ballast = self.ballast.get_or_insert_with(|| File::create(at).unwrap());
        for piece in [1 << 16, 1 << 12, 1] {
            while ballast.write_all(&vec![b'x'; piece]).is_ok() {}
        }
    }

    pub fn free(&mut self) {
        self.ballast = None;
        std::fs::remove_file(self.at.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        can("umount", &["-l", &self.at.display().to_string()]);
    }
}
