//! Whose kernel programs a socket meets.
//!
//! Nodes are machines of their own, and here they are namespaces of one: the programs of every agent
//! would run for every socket. So each agent has a cgroup of its own as its root, and this process is
//! in the one to which the sockets belong that it is about to make. A socket keeps its cgroup, and an
//! accepted one has its listener's.
//!
//! ```text
//!  near     the first node's agent, its pods, and peers' pods, which the mesh does not know
//!  far      the second node's
//!  nobody   nobody's programs: what TCP is without us
//! ```

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cgroup;

/// A node, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Near,
    Far,
    Nobody,
}

impl Side {
    /// The cgroup, which is made if it is not there. It goes with that of this process.
    pub(super) fn cgroup(self) -> Result<PathBuf> {
        let cgroup = cgroup::own()?.join(match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Nobody => "nobody",
        });
        fs::create_dir_all(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        Ok(cgroup)
    }

    /// Moves this process there, with all of its threads: what it makes from now on is that node's.
    pub(super) fn enter(self) -> Result<()> {
        cgroup::join(&self.cgroup()?, std::process::id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Membership;

    #[test]
    fn a_process_is_where_it_went_to_last() -> Result<()> {
        if !crate::settings::may_run()? {
            return Ok(());
        }
        let _membership = Membership::enter()?;
        for (side, name) in [(Side::Far, "far"), (Side::Nobody, "nobody")] {
            side.enter()?;
            let own = fs::read_to_string("/proc/self/cgroup")?;
            let is_there = |line: &str| line.starts_with("0::") && line.ends_with(name);
            assert!(own.lines().any(is_there), "{own}");
        }
        Ok(())
    }
}
