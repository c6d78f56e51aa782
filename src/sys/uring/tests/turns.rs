//! Turns of a ring: queues that are full, sleeps and what ends them, and what a ring is and is not allowed.

use super::*;

#[test]
fn a_full_submission_queue_delays_operations_and_loses_none() {
    const OPERATIONS: u32 = 100;
    let options = UringOptions { submission_entries: 2, completion_entries: 4, ..UringOptions::default() };
    for features in both() {
        let mut rig = Rig::with(features, GroupId::Tcp, 1, &options);
        for slot in 0..OPERATIONS {
            rig.ring.cancel(Token::new(1, 3, 0, slot), RECV);
        }
        assert!(rig.ring.counters().queue_full.get() > 0);
        let mut seen: Vec<u32> = (0..OPERATIONS).map(|_| rig.next().token.slot()).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..OPERATIONS));
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn completions_beyond_the_room_come_with_the_next_turn() {
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    (0..8).for_each(|slot| rig.ring.cancel(Token::new(1, 3, 0, slot), RECV));
    let mut out = Vec::with_capacity(3);
    for part in [3, 3, 2] {
        out.clear();
        while out.is_empty() {
            rig.ring.turn(Wait::Until(None), &mut out).unwrap(); // G3: does not sleep on what is there.
        }
        assert_eq!(out.len(), part);
    }
    rig.finish(GroupId::Tcp);
}

#[test]
fn a_wake_up_ends_a_sleep_and_is_shown_to_nobody() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 1);
        let waker = Waker::new().unwrap();
        rig.ring.register_waker(&waker);
        for round in 1..=3 {
            let other = waker.clone();
            let thread = std::thread::spawn(move || other.notify());
            while rig.ring.counters().wakes.get() < round {
                rig.ring.turn(Wait::Until(None), &mut rig.out).unwrap();
            }
            assert!(rig.out.is_empty());
            thread.join().unwrap();
        }
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn a_sleep_ends_at_its_deadline_with_or_without_a_minimum_wait() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 1);
        let until = rig.ring.now() + Nanos::from_millis(2);
        for wait in
            [Wait::Until(Some(until)), Wait::MinWait { completions: 4, at_most: Nanos::from_micros(50), until: Some(until) }]
        {
            while rig.ring.now() < until {
                rig.ring.turn(wait, &mut rig.out).unwrap();
            }
            rig.ring.turn(wait, &mut rig.out).unwrap(); // A deadline that has passed doesn't sleep.
            assert!(rig.out.is_empty());
        }
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn a_minimum_wait_returns_with_one_completion() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 1);
        rig.ring.cancel(OTHER, RECV);
        let wait = Wait::MinWait { completions: 1_000, at_most: Nanos::from_micros(50), until: None };
        while rig.out.is_empty() {
            rig.ring.turn(wait, &mut rig.out).unwrap(); // A signal may end one early.
        }
        assert_eq!(rig.out.len(), 1);
        rig.out.clear();
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn an_idle_ring_is_polled_without_a_system_call() {
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    let (mut client, server) = stream_pair();
    rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
    while !rig.ring.ring.submission().is_empty() {
        rig.ring.turn(Wait::Poll, &mut rig.out).unwrap();
    }
    let before = rig.ring.counters().enters.get();
    for _ in 0..100 {
        rig.ring.turn(Wait::Poll, &mut rig.out).unwrap();
    }
    assert_eq!(rig.ring.counters().enters.get(), before);
    client.write_all(b"now").unwrap();
    while rig.out.is_empty() {
        rig.ring.turn(Wait::Poll, &mut rig.out).unwrap(); // The kernel's flag says that there is something to work off.
    }
    let completion = rig.out.remove(0);
    assert_eq!(rig.take(completion.buffer, 3), b"now");
    rig.finish(GroupId::Tcp);
}

#[test]
fn a_signal_ends_a_sleep_and_loses_no_operation() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: an all-zero sigaction is valid; the handler does nothing. SIGUSR2 is nobody else's in these tests; without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
    }
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    // SAFETY: no preconditions.
    let sleeper = unsafe { libc::pthread_self() } as usize;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = done.clone();
    let thread = std::thread::spawn(move || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            // SAFETY: the sleeper lives until this thread is joined.
            unsafe { libc::pthread_kill(sleeper as libc::pthread_t, libc::SIGUSR2) };
            std::thread::yield_now();
        }
    });
    while rig.ring.counters().interrupted.get() == 0 {
        rig.ring.turn(Wait::Until(None), &mut rig.out).unwrap();
    }
    (0..20).for_each(|slot| rig.ring.cancel(Token::new(1, 3, 0, slot), RECV));
    (0..20).for_each(|_| assert_eq!(rig.next().result, Err(Errno(libc::ENOENT))));
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    thread.join().unwrap();
    rig.finish(GroupId::Tcp);
}

#[test]
fn a_restricted_ring_refuses_what_the_engine_never_does() {
    let features = both()[0];
    if !features.has(Feature::Restrictions) {
        eprintln!("SKIPPED: this kernel has no ring restrictions");
        return;
    }
    let mut rig = Rig::new(features, GroupId::Tcp, 1);
    let path = c"/etc/hostname";
    rig.ring.push(opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build(), OTHER);
    assert_eq!(rig.final_result(OTHER), Err(Errno(libc::EACCES)));
    rig.finish(GroupId::Tcp);
}

#[test]
fn a_polling_kernel_thread_serves_the_same_operations() {
    let polling = SubmissionPolling { idle_ms: 1, cpu: None };
    let options = UringOptions { submission_polling: Some(polling), ..UringOptions::default() };
    let mut rig = Rig::with(both()[0], GroupId::Tcp, 2, &options);
    let (mut client, server) = stream_pair();
    rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
    for text in [b"one", b"two"] {
        client.write_all(text).unwrap();
        let completion = rig.next();
        assert_eq!(rig.take(completion.buffer, 3), text);
    }
    rig.finish(GroupId::Tcp);
}

#[test]
fn workers_of_a_pinned_runner_can_be_set_free() {
    use crate::sys::process::{IoWorkers, allowed_cpus, cpus_of, pin_current_thread};
    let allowed = allowed_cpus();
    if allowed.len() < 2 {
        eprintln!("SKIPPED: needs two CPUs");
        return;
    }
    let pinned = std::thread::spawn(move || {
        pin_current_thread(allowed[0]).expect("an allowed CPU");
        let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
        let file = tempfile::tempfile().unwrap();
        // A sync never completes inline: it makes a worker, which stays for some seconds.
        rig.ring.sync(OTHER, fd(&file));
        rig.final_result(OTHER).unwrap();
        let workers = || -> Vec<libc::pid_t> {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
            // SAFETY: no preconditions.
            let name = format!("iou-wrk-{}", unsafe { libc::gettid() });
            let is_ours = |task: &std::path::PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|c| c.trim() == name);
            tasks.filter(is_ours).map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
        };
        assert!(!workers().is_empty(), "no worker");
        let mut watch = IoWorkers::default();
        if watch.set_free() == 0 {
            eprintln!("SKIPPED: this kernel does not let workers be moved (before 6.4)");
        } else {
            workers().into_iter().for_each(|worker| assert_eq!(cpus_of(worker), allowed_cpus()));
        }
        rig.finish(GroupId::Tcp);
    });
    pinned.join().unwrap();
}

#[test]
fn a_dropped_ring_waits_for_what_is_in_flight() {
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    let (_client, server) = stream_pair();
    rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
    rig.ring.turn(Wait::Poll, &mut rig.out).unwrap();
    assert_eq!(rig.ring.in_flight(), 1);
    drop(rig.ring);
    rig.owner.take_back_all();
    let gauges = rig.owner.gauges();
    assert_eq!(gauges.free, gauges.total);
}

#[test]
fn every_counter_is_exported_with_its_runner() {
    let ring = Uring::new(&UringOptions { runner: "node0-a".into(), ..UringOptions::default() }, &Features::NONE).unwrap();
    let mut names = Vec::new();
    crate::metrics::Measured::measure(&*ring.counters(), &mut |sample| {
        assert_eq!(sample.labels, [("runner", "node0-a")]);
        names.push(sample.name);
    });
    assert_eq!(names.len(), 9);
}
