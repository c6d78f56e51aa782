//! What TCP clients may do wrong, and what must happen: everything before the mistake is stored, the mistake is counted by its reason,
//! nobody else notices.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use support::*;

#[test]
fn single_byte_writes_on_200_connections_are_all_stored() {
    let server = Server::start(&[]);
    let mut streams: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    for stream in &streams {
        stream.set_nodelay(true).expect("TCP");
    }
    let frames: Vec<Vec<u8>> =
        (0..200).map(|n| frame((n % 5) as u8, "slow/drip", format!("{{\"connection\":{n}}}").as_bytes())).collect();
    let longest = frames.iter().map(Vec::len).max().expect("200 of them");
    for position in 0..longest {
        for (stream, frame) in streams.iter_mut().zip(&frames) {
            if let Some(byte) = frame.get(position) {
                stream.write_all(&[*byte]).expect("the engine reads");
            }
        }
    }
    server.wait_stored(200);
    let ended = server.stop();
    let mut bodies: Vec<String> =
        ended.assert_clean().dump().iter().map(|r| r["body"].as_str().expect("text").to_owned()).collect();
    let mut expected: Vec<String> = (0..200).map(|n| format!("{{\"connection\":{n}}}")).collect();
    bodies.sort();
    expected.sort();
    assert_eq!(bodies, expected);
}

#[test]
fn a_stream_cut_at_every_byte_boundary_is_stored_whole() {
    let server = Server::start(&[]);
    let stream_bytes = |n: usize| {
        [frame(3, "cut/a", format!("first {n}").as_bytes()), frame(1, "cut/b", format!("second {n}").as_bytes())].concat()
    };
    let length = stream_bytes(10).len();
    let mut received = 0;
    for cut in 1..length {
        // Two digits, so that all streams are of one length.
        let bytes = stream_bytes(10 + cut);
        let (head, tail) = bytes.split_at(cut);
        let mut stream = server.connect();
        stream.set_nodelay(true).expect("TCP");
        stream.write_all(head).expect("the engine reads");
        received += head.len() as u64;
        server.wait_for("the first part", |_| metric(&server, "eventstream_received_bytes_total", "tcp") >= received);
        stream.write_all(tail).expect("the engine reads");
        received += tail.len() as u64;
    }
    server.wait_stored(2 * (length as u64 - 1));
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len(), 2 * (length - 1));
}

#[test]
fn lengths_are_judged_by_the_header_alone() {
    let server = Server::start(&["--max-frame-bytes=65536"]);
    let largest = 65536 - 4;
    let refused_lengths: [(u32, &str); 6] = [
        (0, "length_too_short"),
        (1, "length_too_short"),
        (2, "length_too_short"),
        (largest + 1, "length_too_long"),
        (0x00ff_ffff, "length_too_long"),
        (u32::MAX, "unknown_protocol"),
    ];
    for (n, (length, reason)) in refused_lengths.into_iter().enumerate() {
        let good = frame(2, "before", format!("good {n}").as_bytes());
        let mut stream = server.connect();
        stream.write_all(&good).expect("the engine reads");
        stream.write_all(&length.to_be_bytes()).expect("the engine reads");
        assert_eq!(read_to_close(&mut stream), b"", "version 1 has no answers");
        server.wait_for(reason, |status| refused(status, reason) >= 1);
    }
    let body = vec![b'x'; largest as usize - 3 - 3];
    send_all(&server, &frame(2, "max", &body));
    server.wait_stored(refused_lengths.len() as u64 + 1);
    let ended = server.stop();
    let records = ended.assert_clean().dump();
    assert_eq!(records.iter().filter(|r| r["topic"] == "before").count(), refused_lengths.len());
    assert_eq!(records.iter().find(|r| r["topic"] == "max").expect("stored")["body"].as_str().expect("text").len(), body.len());
}

#[test]
fn malformed_headers_and_topics_are_refused_by_reason() {
    let server = Server::start(&[]);
    let raw = |priority: u8, topic_len: u16, rest: &[u8]| {
        let mut bytes = ((3 + rest.len()) as u32).to_be_bytes().to_vec();
        bytes.push(priority);
        bytes.extend(topic_len.to_be_bytes());
        bytes.extend(rest);
        bytes
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("topic_empty", raw(2, 0, b"body")),
        ("topic_beyond_frame", raw(2, 5, b"abc")),
        ("topic_too_long", raw(2, u16::MAX, b"abc")),
        ("topic_not_utf8", raw(2, 2, &[0xc0, 0xaf])),
        ("topic_not_utf8", raw(2, 3, &[0xed, 0xa0, 0x80])),
        ("topic_control", raw(2, 3, b"a\0b")),
        ("topic_control", raw(2, 3, b"a\nb")),
        ("topic_control", raw(2, 3, b"a\x1bb")),
        ("topic_wildcard", raw(2, 3, b"a/+")),
        ("topic_wildcard", raw(2, 3, b"a/#")),
        ("unknown_priority", raw(5, 1, b"a")),
        ("unknown_priority", raw(255, 1, b"a")),
        ("unknown_protocol", vec![0x7f, 1, 2, 3, 4, 5, 6, 7]),
        ("unknown_protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    for (n, (reason, bytes)) in cases.iter().enumerate() {
        let before = refused(&server.status(), reason);
        let mut stream = server.connect();
        // What a stream is, its first byte says; so the good frame goes first only where the stream is of version 1.
        if *reason != "unknown_protocol" {
            stream.write_all(&frame(1, "before", format!("good {n}").as_bytes())).expect("the engine reads");
        }
        stream.write_all(bytes).expect("the engine reads");
        read_to_close(&mut stream);
        server.wait_for(reason, |status| refused(status, reason) > before);
    }
    let good = cases.iter().filter(|(reason, _)| *reason != "unknown_protocol").count();
    server.wait_stored(good as u64);
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len(), good);
}

#[test]
fn half_a_frame_then_silence_is_closed_after_the_frame_deadline() {
    let server = Server::start(&["--frame-deadline-ms=200"]);
    let mut other = server.connect();
    let whole = frame(2, "slow", b"never finished");
    let mut stream = server.connect();
    stream.write_all(&whole[..whole.len() - 3]).expect("the engine reads");
    assert_eq!(read_to_close(&mut stream), b"");
    server.wait_for("slow_frame", |_| metric(&server, "eventstream_connections_closed_total", "slow_frame") == 1);
    other.write_all(&frame(2, "fine", b"an idle connection is not a slow one")).expect("still open");
    server.wait_stored(1);
    drop(other);
    server.stop().assert_clean();
}

#[test]
fn thousands_of_idle_connections_leave_room_for_new_clients() {
    // Each connection takes a descriptor here and one in the engine; both inherit this process's limit.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid rlimit to fill.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: raises the soft limit to the hard one.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let idle = 10_000.min(limit.rlim_max as usize - 500);
    if idle < 10_000 {
        skip(&format!("RLIMIT_NOFILE allows only {idle} idle connections here, not 10000"));
    }
    let server = Server::start(&["--max-connections=10100"]);
    let resident_before = resident_bytes(server.pid());
    let streams: Vec<TcpStream> = (0..idle).map(|_| server.connect()).collect();
    server.wait_for("all connections", |_| metric(&server, "eventstream_connections_open", "") >= idle as u64);
    send_all(&server, &frame(3, "new/client", b"served"));
    server.wait_stored(1);
    let grown = resident_bytes(server.pid()).saturating_sub(resident_before);
    assert!(grown / idle as u64 <= 1024, "{} bytes of user memory for each idle connection", grown / idle as u64);
    drop(streams);
    server.stop().assert_clean();
}

fn resident_bytes(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("our child");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("kB") * 1024
}

#[test]
fn a_reset_in_mid_frame_keeps_the_frames_before_it() {
    use std::os::fd::AsRawFd;
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let half = frame(2, "reset/half", b"never arrives");
    stream.write_all(&frame(2, "reset/whole", b"arrives")).expect("the engine reads");
    stream.write_all(&half[..9]).expect("the engine reads");
    server.wait_stored(1);
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: a valid linger struct of its own size, on a socket of ours: close sends RST.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
    drop(stream);
    server.wait_for("partial_frame", |_| metric(&server, "eventstream_partial_frame_total", "") == 1);
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len(), 1);
}

#[test]
fn a_hog_does_not_starve_a_hundred_ordinary_clients() {
    let server = Server::start(&["--dedup=off"]);
    let tcp = server.tcp;
    let hog = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(tcp).expect("the engine accepts");
        let block = frame(1, "hog", b"x").repeat(1000);
        for _ in 0..1000 {
            stream.write_all(&block).expect("the engine reads");
        }
    });
    // While the hog is at it, each ordinary client must get its event through; waiting for each is the assertion.
    let mut clients: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&frame(2, "ordinary", format!("client {n}").as_bytes())).expect("the engine reads");
    }
    server.wait_for("all ordinary clients", |status| status["tiers"]["transactional"]["stored"].as_u64().expect("a term") >= 100);
    hog.join().expect("the hog was served too");
    server.wait_stored(1_000_100);
    server.stop().assert_clean();
}

#[test]
fn running_out_of_descriptors_is_waited_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", binary()]);
    let server = Server::spawn(command, &folder.path().join("data"), &[]);
    let mut streams: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    // The admin endpoint has no descriptors either; what the engine does meanwhile shows in its CPU time.
    let cpu_before = cpu_ticks(server.pid());
    std::thread::sleep(Duration::from_secs(1)); // the span over which CPU use is measured
    let ticks = cpu_ticks(server.pid()) - cpu_before;
    assert!(ticks <= 20, "{ticks} ticks of CPU in a second of having no descriptors: it spins");
    for (n, stream) in streams.iter_mut().enumerate() {
        // Those that wait in the backlog can write too; the engine reads them later.
        stream.write_all(&frame(2, "patient", format!("client {n}").as_bytes())).expect("the kernel takes it");
    }
    drop(streams.drain(..60));
    server.wait_stored(100);
    assert!(metric(&server, "eventstream_accept_backoff_total", "") >= 1, "it ran out of descriptors, and backed off");
    drop(streams);
    server.stop().assert_clean();
}

fn cpu_ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("our child");
    let after_name = text.rsplit_once(") ").expect("the name ends").1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    // utime and stime are fields 14 and 15 of proc(5); the name was the second.
    fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")
}
