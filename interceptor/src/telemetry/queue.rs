//! A bounded queue of lines and the thread that writes them.
//!
//! A log file on a full disk or a pipe that nobody reads must not hold up a connection. Whoever
//! has a line gives it to [`Lines::push`], which never waits: when the queue is full the line is
//! dropped and counted, and the writer says so in the stream itself as soon as it can write again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// How often lines may wait to be taken, one or a hundred at a time. Counted here and not by the
/// channel, which would take the memory for all of them from the beginning.
const CAPACITY: usize = 8192;

/// How many bytes of lines may wait: at about 600 bytes a line, a tenth of a second at 80,000
/// connections a second that are reported from both ends.
const ROOM: usize = 10 << 20;

/// How long lines may gather while others were just written. Waking the writer for each of them
/// costs the connections more than the lines do.
const PAUSE: Duration = Duration::from_millis(1);

/// How often a log file is looked at to see whether it was rotated away.
const ROTATION_CHECK: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Destination {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to. It is opened again when it was renamed or removed, so log rotation
    /// needs no signal.
    File(PathBuf),
}

/// A handle to a queue of lines. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Lines {
    sender: Sender<Entry>,
    capacity: usize,
    waiting: Arc<Waiting>,
    lost: Arc<AtomicU64>,
}

/// How much waits.
#[derive(Debug, Default)]
struct Waiting {
    /// To be taken.
    entries: AtomicUsize,
    /// To be written.
    bytes: AtomicUsize,
}

/// Appends lines, when they are about to be written.
type Render = Box<dyn FnOnce(&mut Vec<u8>) + Send>;

enum Entry {
    Lines {
        text: Vec<u8>,
        count: u64,
    },
    Later {
        render: Render,
        size: usize,
        count: u64,
    },
    Flush(SyncSender<()>),
}

impl Lines {
    /// Opens `destination` and starts its writer thread. `notice` renders the line that reports
    /// how many lines were lost.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or the thread cannot be started.
    pub fn open(destination: &Destination, notice: fn(u64) -> Vec<u8>) -> io::Result<Self> {
        Self::start(Sink::open(destination)?, CAPACITY, notice)
    }

    /// Starts a writer thread for `sink` behind a queue of `capacity` lines.
    fn start(
        sink: impl Write + Send + 'static,
        capacity: usize,
        notice: fn(u64) -> Vec<u8>,
    ) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let lost = Arc::new(AtomicU64::new(0));
        let waiting = Arc::<Waiting>::default();
        let writer = Writer {
            receiver,
            sink,
            waiting: Arc::clone(&waiting),
            lost: Arc::clone(&lost),
            text: Vec::new(),
            reported: 0,
            notice,
        };
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            sender,
            capacity,
            waiting,
            lost,
        })
    }

    /// Queues `line`, which must end with a line break. Never waits. Returns whether it fitted.
    pub fn push(&self, line: Vec<u8>) -> bool {
        self.push_all(line, 1)
    }

    /// Queues `text`, which has `count` lines. Never waits. Returns whether they fitted: all of
    /// them or none.
    pub fn push_all(&self, text: Vec<u8>, count: u64) -> bool {
        self.queue(text.len(), count, Entry::Lines { text, count })
    }

    /// Queues `count` lines of about `size` bytes, which the writer makes: they are still in its
    /// caches when it writes them. Never waits. Returns whether they fitted.
    pub fn push_later(
        &self,
        (size, count): (usize, u64),
        render: impl FnOnce(&mut Vec<u8>) + Send + 'static,
    ) -> bool {
        let render = Box::new(render);
        let entry = Entry::Later {
            render,
            size,
            count,
        };
        self.queue(size, count, entry)
    }

    fn queue(&self, size: usize, count: u64, entry: Entry) -> bool {
        let Waiting { entries, bytes } = &*self.waiting;
        let before = bytes.fetch_add(size, Ordering::Relaxed);
        let others = entries.fetch_add(1, Ordering::Relaxed);
        let has_room = before.saturating_add(size) <= ROOM && others < self.capacity;
        let fits = has_room && self.sender.send(entry).is_ok();
        if !fits {
            entries.fetch_sub(1, Ordering::Relaxed);
            bytes.fetch_sub(size, Ordering::Relaxed);
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
        fits
    }

    /// How many lines were dropped because the queue was full or could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything queued so far is written, or `limit` has passed. For the end of the
    /// process; blocks the calling thread.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        if self.sender.send(Entry::Flush(done)).is_err() {
            return;
        }
        // Too late is the same as never: there is nothing left to do about it.
        wait.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            .unwrap_or_default();
    }
}

struct Writer<W> {
    receiver: Receiver<Entry>,
    sink: W,
    waiting: Arc<Waiting>,
    lost: Arc<AtomicU64>,
    /// Where lines are made.
    text: Vec<u8>,
    reported: u64,
    notice: fn(u64) -> Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        loop {
            match self.receiver.recv_timeout(ROTATION_CHECK) {
                Ok(entry) => {
                    self.take(entry);
                    std::thread::sleep(PAUSE);
                }
                Err(RecvTimeoutError::Timeout) => self.report_losses(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        drop(self.sink.flush());
    }

    fn take(&mut self, first: Entry) {
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry {
                Entry::Lines { text, count } => {
                    self.waiting.entries.fetch_sub(1, Ordering::Relaxed);
                    self.write(&text, text.len(), count);
                }
                Entry::Later {
                    render,
                    size,
                    count,
                } => {
                    self.waiting.entries.fetch_sub(1, Ordering::Relaxed);
                    let mut text = std::mem::take(&mut self.text);
                    text.clear();
                    render(&mut text);
                    self.write(&text, size, count);
                    self.text = text;
                }
                Entry::Flush(done) => {
                    self.report_losses();
                    drop(self.sink.flush());
                    done.try_send(()).unwrap_or_default();
                }
            }
            next = self.receiver.try_recv().ok();
        }
        self.report_losses();
        drop(self.sink.flush());
    }

    /// Writes what waited as so many bytes.
    fn write(&mut self, text: &[u8], size: usize, count: u64) {
        if self.sink.write_all(text).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
        (self.waiting.bytes).fetch_sub(size, Ordering::Relaxed);
    }

    fn report_losses(&mut self) {
        let lost = self.lost.load(Ordering::Relaxed);
        let new = lost.saturating_sub(self.reported);
        if new > 0 && self.sink.write_all(&(self.notice)(new)).is_ok() {
            self.reported = lost;
        }
    }
}

/// An open [`Destination`], buffered so that a burst costs few system calls.
struct Sink {
    out: io::BufWriter<Box<dyn Write + Send>>,
    file: Option<RotatedFile>,
}

struct RotatedFile {
    path: PathBuf,
    inode: u64,
    checked: Instant,
}

impl Sink {
    fn open(destination: &Destination) -> io::Result<Self> {
        let (out, file): (Box<dyn Write + Send>, _) = match destination {
            Destination::Stdout => (Box::new(io::stdout()), None),
            Destination::Stderr => (Box::new(io::stderr()), None),
            Destination::File(path) => {
                let file = append_to(path)?;
                let inode = file.metadata()?.ino();
                let rotated = RotatedFile {
                    path: path.clone(),
                    inode,
                    checked: Instant::now(),
                };
                (Box::new(file), Some(rotated))
            }
        };
        Ok(Self {
            out: io::BufWriter::with_capacity(64 * 1024, out),
            file,
        })
    }

    fn follow_rotation(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if file.checked.elapsed() < ROTATION_CHECK {
            return Ok(());
        }
        file.checked = Instant::now();
        if std::fs::metadata(&file.path).is_ok_and(|now| now.ino() == file.inode) {
            return Ok(());
        }
        self.out.flush()?;
        let new = append_to(&file.path)?;
        file.inode = new.metadata()?.ino();
        self.out = io::BufWriter::with_capacity(64 * 1024, Box::new(new));
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.follow_rotation()?;
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(lost: u64) -> Vec<u8> {
        format!("{lost} lines lost\n").into_bytes()
    }

    /// A sink whose every write waits for a permit: a pipe that nobody reads.
    struct Stuck {
        permits: Receiver<()>,
        written: SyncSender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(io::Error::other)?;
            self.written.send(buf.to_vec()).map_err(io::Error::other)?;
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_sleeps_costs_lines_and_never_time() {
        let (permit, permits) = channel();
        let (written, lines) = sync_channel(100);
        let queue = Lines::start(Stuck { permits, written }, 2, notice).unwrap();
        let pushed = (0..50)
            .filter(|n| queue.push(format!("{n}\n").into_bytes()))
            .count();
        assert!(pushed <= 3, "two wait and at most one is being written");
        let lost = queue.lost();
        assert_eq!(lost, 50 - u64::try_from(pushed).unwrap());
        for _ in 0..=pushed {
            permit.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(10));
        let last = lines.try_iter().last().unwrap();
        assert_eq!(
            String::from_utf8(last).unwrap(),
            format!("{lost} lines lost\n")
        );
    }

    #[test]
    fn lines_that_come_together_are_kept_or_lost_together() {
        let (permit, permits) = channel();
        let (written, lines) = sync_channel(100);
        let queue = Lines::start(Stuck { permits, written }, 100, notice).unwrap();
        let chunk = vec![b'x'; ROOM / 4];
        let kept = (0..10).filter(|_| queue.push_all(chunk.clone(), 7)).count();
        assert_eq!(kept, 4, "what is being written counts, too");
        assert_eq!(queue.lost(), 6 * 7);
        for _ in 0..=kept {
            permit.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(10));
        assert_eq!(lines.try_iter().last().unwrap(), notice(42));
        assert!(queue.push(b"room again\n".to_vec()));
        permit.send(()).unwrap();
        queue.flush(Duration::from_secs(10));
    }

    #[test]
    fn lines_that_the_writer_makes_keep_their_place_and_their_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines = Lines::open(&Destination::File(path.clone()), notice).unwrap();
        assert!(lines.push(b"one\n".to_vec()));
        assert!(lines.push_later((8, 2), |out| out.extend(b"two\nthree\n")));
        assert!(lines.push(b"four\n".to_vec()));
        assert!(!lines.push_later((ROOM + 1, 5), |out| out.extend(b"too much")));
        assert_eq!(lines.lost(), 5);
        lines.flush(Duration::from_secs(10));
        assert_eq!(lines.waiting.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            "one\ntwo\nthree\nfour\n5 lines lost\n"
        );
    }

    #[test]
    fn a_renamed_file_is_left_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut sink = Sink::open(&Destination::File(path.clone())).unwrap();
        sink.write_all(b"one\n").unwrap();
        std::fs::rename(&path, dir.path().join("access.log.1")).unwrap();
        if let Some(file) = &mut sink.file {
            file.checked = Instant::now().checked_sub(ROTATION_CHECK).unwrap();
        }
        sink.write_all(b"two\n").unwrap();
        sink.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
        assert_eq!(
            std::fs::read(dir.path().join("access.log.1")).unwrap(),
            b"one\n"
        );
    }

    #[test]
    fn flush_waits_for_what_was_queued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines = Lines::open(&Destination::File(path.clone()), notice).unwrap();
        for n in 0..1000 {
            assert!(lines.push(format!("{n}\n").into_bytes()));
        }
        lines.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1000);
    }
}
