//! One stream of a shared carrier, as its carrier knows it.
//!
//! # Invariants
//!
//! * What the peer said is given to the application in order: as long as something waits, everything
//!   behind it waits, too.
//! * A stream that says nothing holds no buffer.

use std::io::{self, ErrorKind, Write as _};
use std::sync::Arc;
use std::task::Waker;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::super::codec::Fields;
use super::super::splice::Load;
use super::window::{FIRST, Window};

/// One stream.
#[derive(Debug)]
pub(super) struct Slot {
    /// Of the task that has the stream.
    waker: Option<Waker>,
    /// Nobody before the stream is carried.
    pub(super) app: Option<App>,
    /// Received, and not yet taken by the application.
    waiting: Waiting,
    pub(super) window: Window,
    /// What we may still say.
    pub(super) allowed: u32,
    /// The answer, until somebody takes it.
    pub(super) answer: Option<Box<Fields>>,
    pub(super) is_answered: bool,
    /// The peer says nothing more.
    pub(super) peer_finished: bool,
    /// It waits for room among what goes out.
    pub(super) is_queued: bool,
    /// What ended it.
    pub(super) end: Option<End>,
}

/// What ends a stream before its time.
#[derive(Debug)]
pub(super) enum End {
    /// The peer reset it, with this code.
    Reset(u32),
    /// The peer has not looked at it and will not.
    Unserved,
    /// Its application's socket has failed.
    App(io::Error),
}

/// The application that a stream belongs to, and what is counted of it.
#[derive(Debug)]
pub(super) struct App {
    pub(super) socket: Arc<TcpStream>,
    pub(super) load: Load,
}

/// How far the application has taken what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has everything.
    All,
    /// Its socket takes no more now.
    Blocked,
}

/// Bytes in the order in which they came. There is room for no more than twice what there may be.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    start: usize,
}

impl Waiting {
    fn push(&mut self, bytes: &[u8]) {
        // What is gone makes room once it is half of all: an application that never quite catches up
        // would else be remembered from its first byte.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes.capacity() {
            // What grows by itself may double once more.
            let room = length.next_power_of_two() - self.bytes.len();
            self.bytes.reserve_exact(room);
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// So many bytes have been taken.
    fn took(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

impl Slot {
    pub(super) fn new(is_answered: bool) -> Self {
        Self {
            waker: None,
            app: None,
            waiting: Waiting::default(),
            window: Window::default(),
            allowed: FIRST,
            answer: None,
            is_answered,
            peer_finished: false,
            is_queued: false,
            end: None,
        }
    }

    /// Remembers whom to wake.
    pub(super) fn wakes(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Tells whoever has the stream that something has happened to it.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(super) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake();
    }

    /// Whether it is over for the peer as well.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.end, Some(End::Reset(_) | End::Unserved))
    }

    /// Whether everything that came has been taken by the application.
    pub(super) fn is_drained(&self) -> bool {
        self.waiting.bytes().is_empty()
    }

    /// Gives to the application what the peer has said, as far as it takes it now. The rest waits.
    /// Returns how much it took.
    pub(super) fn deliver(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.is_drained()
            && let Some(app) = &mut self.app
        {
            match app.write(bytes) {
                Ok(count) => taken = count,
                Err(error) => {
                    self.end(End::App(error));
                    return 0;
                }
            }
        }
        let rest = bytes.get(taken..).unwrap_or_default();
        if !rest.is_empty() {
            self.waiting.push(rest);
            self.window.kept_waiting();
            self.wake();
        }
        taken
    }

    /// Gives to the application what waits for it. Returns how much it took, and whether that is all.
    pub(super) fn catch_up(&mut self) -> io::Result<(usize, Progress)> {
        let mut taken = 0;
        while let Some(app) = &mut self.app
            && !self.waiting.bytes().is_empty()
        {
            // So that the runtime knows when the socket takes no more.
            match app.socket.try_write(self.waiting.bytes()) {
                Ok(count) => {
                    app.load.received(count);
                    taken += count;
                    self.waiting.took(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok((taken, Progress::Blocked));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((taken, Progress::All))
    }
}

impl App {
    /// Asks the kernel directly: if the socket takes nothing now, whoever waits for it finds out in
    /// the runtime's way.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (&*SockRef::from(&*self.socket)).write(bytes) {
            Ok(count) => {
                self.load.received(count);
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Waiting;

    #[test]
    fn an_application_that_never_quite_catches_up_is_not_remembered_from_its_first_byte() {
        const WINDOW: usize = 64 << 10;
        let mut waiting = Waiting::default();
        waiting.push(&vec![0; WINDOW]);
        for turn in 1..=1000 {
            waiting.took(WINDOW / 2);
            waiting.push(&vec![u8::try_from(turn % 251).unwrap(); WINDOW / 2]);
            assert_eq!(waiting.bytes().len(), WINDOW);
        }
        assert!(
            waiting.bytes.capacity() <= 2 * WINDOW,
            "{} bytes",
            waiting.bytes.capacity()
        );
        let (older, newer) = waiting.bytes().split_at(WINDOW / 2);
        assert!(older.iter().all(|byte| usize::from(*byte) == 999 % 251));
        assert!(newer.iter().all(|byte| usize::from(*byte) == 1000 % 251));
        waiting.took(WINDOW);
        assert_eq!(waiting.bytes.capacity(), 0);
    }
}
