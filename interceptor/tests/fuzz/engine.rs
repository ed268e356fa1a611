//! A small fuzzer that needs nothing but stable Rust.
//!
//! Inputs are mutated from a corpus that starts with the seeds. What steers it is behaviour instead
//! of branch coverage: a target answers with the *features* that it saw (kinds of mistakes, kinds of
//! verdicts), and an input that shows a new one joins the corpus. That is coarser than coverage, but
//! it sees what operators see, costs nothing and builds with the compiler that everything else is
//! built with.
//!
//! An input that panics, in whichever task, or that takes longer than [`PATIENCE`], is written to `target/fuzz/` and
//! fails the test. It then belongs into `found/`, beside the fix: everything there is run first,
//! always. One that takes more memory than there is [`ROOM`] ends the process, since the kernel
//! gives it no more; it is in `target/fuzz/TARGET/current`, where each input is before it is tried.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use parking_lot::Mutex;

/// One input takes milliseconds; what takes this long would hold up an agent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of memory for all targets together, beyond what the process has at its start. Corpora may
/// take a third of it.
const ROOM: u64 = 768 << 20;

/// Inputs that are kept because they showed something new.
const CORPUS: usize = 4_000;

/// Size of an input. Larger ones are slower and find nothing else; the limits of the reader have
/// tests of their own.
const LARGEST: usize = 16 * 1024;

/// Runs without a time limit: enough to see that a target works.
const SHORT_RUN: u64 = 400;

/// What a target saw.
pub(crate) type Features = BTreeSet<u64>;

/// Something to try inputs on. It panics if an invariant does not hold.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]) -> Features,
    /// Words that mean something to it.
    pub(crate) words: &'static [&'static str],
}

/// Numbers that nobody needs to guess: the same seed gives the same run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator `SplitMix64`.
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        let number = self.next().checked_rem(end).unwrap_or_default();
        usize::try_from(number).unwrap_or_default()
    }

    const fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// A stable number for something that was seen.
pub(crate) fn feature(seen: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    seen.hash(&mut hasher);
    hasher.finish()
}

/// A message without what differs from input to input: quoted text and numbers.
pub(crate) fn skeleton(message: &str) -> String {
    let mut quoted = false;
    let kept = |c: &char| match *c {
        '"' | '`' => {
            quoted = !quoted;
            false
        }
        c => !quoted && !c.is_ascii_digit(),
    };
    message.chars().filter(kept).take(32).collect()
}

/// Lets this process grow by [`ROOM`] and no more, whichever test comes first.
pub(crate) fn limit_memory() {
    static LIMITED: Once = Once::new();
    LIMITED.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let data = status.lines().find_map(|line| line.strip_prefix("VmData:"));
        let kilobytes = data.and_then(|data| data.split_whitespace().next()?.parse::<u64>().ok());
        let limit = kilobytes.unwrap() * 1024 + ROOM;
        setrlimit(Resource::RLIMIT_DATA, limit, limit).unwrap();
    });
}

fn folder(name: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz")
        .join(name)
        .join(target.name)
}

/// Every file of a folder, by name.
pub(crate) fn inputs(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let files = paths.into_iter().filter(|path| path.is_file());
    files.map(|path| fs::read(path).unwrap()).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's switch, not configuration"
)]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs `target` on everything that was found before, on its seeds, and then on what it can make
/// of them: for `INTERCEPTOR_FUZZ_SECONDS`, or a few hundred times without it.
pub(crate) fn fuzz(target: &Target, more_seeds: Vec<Vec<u8>>) {
    let seconds = number("INTERCEPTOR_FUZZ_SECONDS");
    let clock = || {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_secs()
    };
    // A short run is a test, and the same every time.
    let seed = number("INTERCEPTOR_FUZZ_SEED").unwrap_or_else(|| seconds.map_or(1, |_| clock()));
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    limit_memory();
    remember_panics();
    let run = Run::start(target);
    let mut seeds = inputs(&folder("seeds", target));
    seeds.extend(more_seeds);
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    let mut seen = Features::new();
    for input in inputs(&folder("found", target)).iter().chain(&seeds) {
        seen.extend(run.one(input));
    }
    let (mut corpus, mut random, mut runs) = (seeds, Random::new(seed), 0_u64);
    let goes_on = |runs| end.map_or(runs < SHORT_RUN, |end| Instant::now() < end);
    while goes_on(runs) {
        let input = mutated(&mut random, &corpus, target.words);
        let features = run.one(&input);
        runs += 1;
        if !features.is_subset(&seen) {
            seen.extend(features);
            if corpus.len() < CORPUS {
                corpus.push(input);
            } else {
                let forgotten = random.below(corpus.len());
                corpus[forgotten] = input;
            }
        }
    }
    eprintln!(
        "fuzz {}: {runs} runs, {} inputs of interest, {} features, INTERCEPTOR_FUZZ_SEED={seed}",
        target.name,
        corpus.len(),
        seen.len()
    );
}

thread_local! {
    /// The first panic since it was asked for. One in a task comes no further than the runtime, which
    /// runs on the thread of its target.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers panics, and tells of them as before.
fn remember_panics() {
    static REMEMBERED: Once = Once::new();
    REMEMBERED.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICKED.with_borrow_mut(|it| {
                it.get_or_insert_with(|| panic.to_string());
            });
            tell(panic);
        }));
    });
}

/// The input that is being tried, and since when.
type Current = Option<(Instant, Vec<u8>)>;

/// Tries inputs, watched by a thread that notices when one does not end.
struct Run<'t> {
    target: &'t Target,
    current: Arc<Mutex<Current>>,
    /// Where the input that is being tried can be found if the process ends.
    path: PathBuf,
    /// The same, kept open: some file systems write a file that is closed to the disk at once, and
    /// then that is all that a run does.
    file: File,
    over: Arc<AtomicBool>,
}

impl<'t> Run<'t> {
    fn start(target: &'t Target) -> Self {
        let current: Arc<Mutex<Current>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let (watched, ended, name) = (Arc::clone(&current), Arc::clone(&over), target.name);
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(200));
                let stuck = watched.lock().as_ref().and_then(|(since, input)| {
                    (since.elapsed() > PATIENCE).then(|| keep(name, input))
                });
                if let Some(path) = stuck {
                    eprintln!("{name} did not end within {PATIENCE:?}: {}", path.display());
                    std::process::abort();
                }
            }
        });
        fs::create_dir_all(kept(target.name)).unwrap();
        let path = kept(target.name).join("current");
        Self {
            target,
            current,
            file: File::create(&path).unwrap(),
            path,
            over,
        }
    }

    fn one(&self, input: &[u8]) -> Features {
        self.file.write_all_at(input, 0).unwrap();
        self.file
            .set_len(u64::try_from(input.len()).unwrap())
            .unwrap();
        *self.current.lock() = Some((Instant::now(), input.to_vec()));
        let result = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        *self.current.lock() = None;
        let panicked = PANICKED.take();
        match (result, panicked) {
            (Ok(features), None) => features,
            (_, panic) => {
                let path = keep(self.target.name, input);
                let panic = panic.unwrap_or_default();
                panic!("{panic}\n  found by the input {}", path.display());
            }
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It is only of use if the process has not come this far.
        drop(fs::remove_file(&self.path));
    }
}

/// Writes an input where a person finds it.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let folder = kept(name);
    let path = folder.join(format!("{:016x}", feature(input)));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&path, input).unwrap();
    path
}

/// The folder for inputs of a target.
fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    folder.join("../fuzz").join(name)
}

// === mutation ===

fn mutated(random: &mut Random, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        mutate(random, &mut input, corpus, words);
    }
    input.truncate(LARGEST);
    input
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    let at = random.below(input.len() + 1);
    let span = at..(at + random.below(64)).min(input.len());
    match random.below(12) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.byte(),
        2 => drop(input.drain(span)),
        3 => {
            let copy = input[span].to_vec();
            insert(input, at, &copy.repeat(1 + random.below(8)));
        }
        4 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len());
            let part = &other[from..(from + random.below(400)).min(other.len())];
            insert(input, at, part);
        }
        5 => {
            let line = lines(input);
            let (a, b) = (random.below(line.len()), random.below(line.len()));
            let (mut whole, copy) = (line.clone(), line[b].clone());
            match random.below(3) {
                0 => whole.swap(a, b),
                1 => whole.insert(a, copy),
                _ => drop(whole.remove(a)),
            }
            *input = whole.concat();
        }
        6 => {
            let mut line = lines(input);
            let at = random.below(line.len());
            let indent = " ".repeat(random.below(9));
            let words = line[at].trim_ascii_start().to_vec();
            line[at] = [indent.as_bytes(), &words].concat();
            *input = line.concat();
        }
        _ if words.is_empty() => input.insert(at, random.byte()),
        7 | 8 => {
            // In the place of a word that is there.
            let (from, to) = word_at(input, at);
            input.drain(from..to);
            insert(input, from, words[random.below(words.len())].as_bytes());
        }
        _ => insert(input, at, words[random.below(words.len())].as_bytes()),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    input.splice(at..at, part.iter().copied());
}

/// The lines with their breaks; at least one.
fn lines(input: &[u8]) -> Vec<Vec<u8>> {
    let lines = input.split_inclusive(|byte| *byte == b'\n');
    let lines: Vec<_> = lines.map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return vec![Vec::new()];
    }
    lines
}

/// The bounds of the word around `at`.
fn word_at(input: &[u8], at: usize) -> (usize, usize) {
    let word = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-' || **byte == b'.';
    let before = input[..at].iter().rev().take_while(word).count();
    let after = input[at..].iter().take_while(word).count();
    (at - before, at + after)
}
