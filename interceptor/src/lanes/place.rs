//! Which lane gets what comes next.
//!
//! Streams are work while they are open, so they are kept even, but not at any price: another lane
//! is told by an eventfd and woken, which a short connection notices. A lane keeps what comes to it
//! as long as it has not an eighth more than the least busy one; with few streams, when it matters
//! most which two are bulk transfers, that is none at all.
//!
//! Carriers are work only while they have a stream, which moves to another lane if need be. They are
//! kept even in number.
//!
//! Not here: who counts.

use super::Load;

/// What a lane has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) streams: usize,
    pub(super) carriers: usize,
}

/// By how much a lane may have more streams than the least busy one: this part of it.
const SLACK: usize = 8;

/// The lane for one more `load`, seen from the lane `here`.
pub(super) fn best(
    here: Option<usize>,
    lanes: impl Iterator<Item = Open> + Clone,
    load: Load,
) -> Option<usize> {
    let by = |open: &Open| match load {
        Load::Stream => (open.streams, open.carriers),
        Load::Carrier => (open.carriers, open.streams),
    };
    let own = here.and_then(|here| lanes.clone().nth(here).map(|open| (here, open)));
    let (index, least) = lanes.enumerate().min_by_key(|(_, open)| by(open))?;
    let Some((here, own)) = own else {
        return Some(index);
    };
    let stays = match load {
        Load::Stream => own.streams <= least.streams + least.streams / SLACK,
        Load::Carrier => by(&own) <= by(&least),
    };
    Some(if stays { here } else { index })
}
