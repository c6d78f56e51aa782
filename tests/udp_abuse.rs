//! What UDP senders may do wrong, and what must happen.

mod support;

use std::time::Duration;

use eventstream::sys::features::Feature;
use support::*;

#[test]
fn several_frames_in_a_datagram_are_stored_and_a_cut_one_is_counted() {
    let server = Server::start(&[]);
    let socket = server.udp_socket();
    let cut = frame(2, "udp/cut", b"cut short");
    let datagram =
        [frame(2, "udp/one", b"1"), frame(3, "udp/two", b"2"), frame(0, "udp/three", b"3"), cut[..cut.len() - 2].to_vec()]
            .concat();
    socket.send(&datagram).expect("loopback");
    server.wait_stored(3);
    server.wait_for("cut_short", |status| refused(status, "cut_short") == 1);
    let ended = server.stop();
    let mut topics: Vec<String> =
        ended.assert_clean().dump().iter().map(|r| r["topic"].as_str().expect("text").to_owned()).collect();
    topics.sort();
    assert_eq!(topics, ["udp/one", "udp/three", "udp/two"]);
}

#[test]
fn oversized_and_empty_datagrams_are_counted_and_never_stored() {
    let server = Server::start(&[]);
    let socket = server.udp_socket();
    socket.send(&[]).expect("loopback");
    socket.send(&frame(2, "udp/large", &vec![b'x'; 4000])).expect("loopback");
    socket.send(&vec![0u8; 65_507]).expect("loopback");
    server.wait_for("udp_truncated", |_| metric(&server, "eventstream_udp_truncated_total", "") == 2);
    server.wait_for("udp_empty", |_| metric(&server, "eventstream_udp_empty_total", "") == 1);
    socket.send(&frame(2, "udp/fits", b"after them")).expect("loopback");
    server.wait_stored(1);
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len(), 1);
}

#[test]
fn a_burst_beyond_the_socket_buffer_is_counted_to_the_datagram_and_realtime_keeps_its_own() {
    let server = Server::start(&["--udp-receive-buffer-bytes=65536"]);
    let socket = server.udp_socket();
    // Stopped, the engine reads nothing: what does not fit into the socket buffers is dropped by the kernel.
    server.signal(libc::SIGSTOP);
    let flood = 3000u64;
    for n in 0..flood {
        socket.send(&frame(1, "udp/flood", format!("flood {n} {}", "x".repeat(200)).as_bytes())).expect("loopback");
    }
    let urgent = 20u64;
    for n in 0..urgent {
        socket.send(&frame(4, "udp/urgent", format!("urgent {n}").as_bytes())).expect("loopback");
    }
    server.signal(libc::SIGCONT);
    let status = server.wait_for("every datagram's fate", |status| {
        term(status, "received") + metric(&server, "eventstream_kernel_drops_total", "") == flood + urgent
    });
    let dropped = flood + urgent - term(&status, "received");
    assert!(dropped > 0, "the burst was meant to overflow");
    if eventstream::sys::features::Features::probe(&[]).expect("the engine runs here").0.has(Feature::Steering) {
        assert_eq!(status["tiers"]["realtime"]["received"].as_u64(), Some(urgent), "REALTIME has a socket of its own");
    } else {
        skip("no classic BPF steering here: REALTIME shares the socket with the flood");
    }
    server.stop().assert_clean();
}

#[test]
fn a_udp_sender_never_gets_an_answer() {
    let server = Server::start(&[]);
    let socket = server.udp_socket();
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("valid");
    for bytes in [frame(2, "udp/fine", b"fine"), b"garbage".to_vec(), Vec::new(), frame(9, "udp/bad", b"bad priority")] {
        socket.send(&bytes).expect("loopback");
    }
    server.wait_stored(1);
    let mut answer = [0u8; 16];
    let error = socket.recv(&mut answer).expect_err("an answer to a UDP sender");
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
    server.stop().assert_clean();
}

#[test]
fn aggregated_datagrams_are_cut_into_events() {
    let server = Server::start(&["--udp-gro=on"]);
    let socket = server.udp_socket();
    for n in 0..500 {
        socket.send(&frame((n % 5) as u8, "udp/gro", format!("event {n:04}").as_bytes())).expect("loopback");
    }
    server.wait_for("every datagram's fate", |status| {
        term(status, "received") + metric(&server, "eventstream_kernel_drops_total", "") >= 500
    });
    server.stop().assert_clean();
}
