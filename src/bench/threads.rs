//! What the threads of an engine took of their cores: in user space, in the kernel, and waiting while others had the core.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::figure::median;

/// One name's times so far.
#[derive(Clone, Debug, Default, PartialEq)]
struct Times {
    name: String,
    /// Nanoseconds on a core.
    ran_ns: f64,
    /// Of these, the share that was spent in the kernel.
    kernel_ns: f64,
    /// Nanoseconds ready to run, but not running.
    waited_ns: f64,
}

/// The times of a process' threads at a moment. Threads of one name are one: workers of a ring come and go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ThreadTimes(Vec<Times>);

impl ThreadTimes {
    /// Of the threads that have names of their own; those that bear the process' name are its main thread and, in the harness, senders.
    /// Empty where `/proc` is hidden.
    pub fn of(process: u32) -> Self {
        let own = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        let mut times = ThreadTimes::default();
        for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let name = read("comm");
            if name != own && !name.is_empty() {
                times.add(plain(name.trim()), &read("stat"), &read("schedstat"));
            }
        }
        times
    }

    /// `schedstat`: nanoseconds run and waited. `stat`: behind the name in brackets, the 12th and 13th field are ticks in user space and
    /// in the kernel, which only tell how the nanoseconds divide.
    fn add(&mut self, name: &str, stat: &str, schedstat: &str) {
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        let (mut nanos, behind) = (schedstat.split_whitespace(), stat.rsplit_once(')').map_or("", |(_, rest)| rest));
        let (ran, waited) = (number(nanos.next()), number(nanos.next()));
        let mut ticks = behind.split_whitespace().skip(11);
        let (user, kernel) = (number(ticks.next()), number(ticks.next()));
        let place = self.0.iter().position(|times| times.name == name).unwrap_or_else(|| {
            self.0.push(Times { name: name.to_owned(), ..Times::default() });
            self.0.len() - 1
        });
        let times = &mut self.0[place];
        times.ran_ns += ran;
        times.kernel_ns += ran * kernel / (user + kernel).max(1.0);
        times.waited_ns += waited;
    }

    fn get(&self, name: &str) -> Times {
        self.0.iter().find(|times| times.name == name).cloned().unwrap_or_default()
    }
}

/// Workers that the kernel makes for a ring bear its process' number.
fn plain(name: &str) -> &str {
    if name.starts_with("iou-wrk") { "kernel workers" } else { name }
}

/// What a thread took, percent of a core: a value for each repeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadUse {
    /// The thread's name.
    pub name: String,
    /// In user space.
    pub user: Vec<f64>,
    /// In the kernel, on its own behalf.
    pub kernel: Vec<f64>,
    /// Ready to run while others had the core.
    pub waited: Vec<f64>,
}

/// The threads of a point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Threads(pub Vec<ThreadUse>);

impl Threads {
    /// Adds a repeat: what was taken between two moments so far apart.
    pub fn note(&mut self, before: &ThreadTimes, after: &ThreadTimes, took: Duration) {
        let percent = |later: f64, earlier: f64| (later - earlier).max(0.0) * 100.0 / (took.as_nanos() as f64).max(1.0);
        for times in &after.0 {
            let then = before.get(&times.name);
            let (ran, kernel) = (percent(times.ran_ns, then.ran_ns), percent(times.kernel_ns, then.kernel_ns));
            let place = self.0.iter().position(|known| known.name == times.name).unwrap_or_else(|| {
                self.0.push(ThreadUse { name: times.name.clone(), ..ThreadUse::default() });
                self.0.len() - 1
            });
            let known = &mut self.0[place];
            known.user.push((ran - kernel).max(0.0));
            known.kernel.push(kernel);
            known.waited.push(percent(times.waited_ns, then.waited_ns));
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name, then percent in user space, in the kernel and waiting, medians over repeats; those that took most first, and none that took
    /// less than a thousandth of a core.
    pub fn rows(&self) -> Vec<(&str, [f64; 3])> {
        let all =
            self.0.iter().map(|thread| (&*thread.name, [&thread.user, &thread.kernel, &thread.waited].map(|runs| median(runs))));
        let mut rows: Vec<_> = all.filter(|(_, [user, kernel, _])| user + kernel >= 0.1).collect();
        rows.sort_by(|(_, a), (_, b)| (b[0] + b[1]).total_cmp(&(a[0] + a[1])));
        rows
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn times(ticks: [(u64, u64); 2], schedstat: [&str; 2]) -> ThreadTimes {
        let mut times = ThreadTimes::default();
        for ((name, (user, kernel)), schedstat) in ["n0-runner0", "kernel workers"].into_iter().zip(ticks).zip(schedstat) {
            let stat = format!("7 ({name} :)) S 1 7 7 0 -1 4194560 0 0 0 0 {user} {kernel} 0 0 20 0 3 0");
            times.add(name, &stat, schedstat);
        }
        times
    }

    /// A runner that took 80 % of a core, a quarter of it in the kernel; workers that took next to nothing.
    pub(in crate::bench) fn threads() -> Threads {
        let mut threads = Threads::default();
        let before = times([(0, 0), (0, 0)], ["0 0 1", "0 0 1"]);
        let after = times([(60, 20), (0, 0)], ["800000000 100000000 9", "5000 0 1"]);
        threads.note(&before, &after, Duration::from_secs(1));
        threads
    }

    #[test]
    fn ticks_tell_how_the_nanoseconds_divide() {
        assert_eq!(threads().rows(), [("n0-runner0", [60.0, 20.0, 10.0])]);
        assert_eq!(plain("iou-wrk-4711"), "kernel workers");
    }

    #[test]
    fn threads_of_this_process_are_found_by_their_names() {
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let (here, is_here) = std::sync::mpsc::channel();
        let named = std::thread::Builder::new().name("a-name".into());
        let waiting = named.spawn(move || {
            // By now it has its name.
            here.send(()).expect("somebody waits");
            told.recv()
        });
        let waiting = waiting.expect("a thread");
        is_here.recv().expect("it starts");
        let times = ThreadTimes::of(std::process::id());
        assert!(times.0.iter().any(|times| times.name == "a-name"), "{times:?}");
        drop(tell);
        waiting.join().expect("no panic").expect_err("nothing was told");
    }
}
