//! What one client or one source may cost: connections, events per second, answers that nobody reads.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::FromRawFd;
use std::time::Instant;

use eventstream::client::{AckLevel, ClientOptions, Outcome, Producer};
use eventstream::wire::session::{ClientMessage, HELLO_BYTES_MAX, Hello};
use eventstream::wire::{Priority, ProducerId};

use support::{PATIENCE, Server, frame, lost, metric, read_to_close, term};

fn producer(server: &Server) -> Producer {
    let options =
        ClientOptions { ack_level: AckLevel::Written, connect_timeout: PATIENCE, ..ClientOptions::new(server.tcp.to_string()) };
    Producer::connect(options).expect("welcomed")
}

#[test]
fn a_source_gets_no_more_connections_than_it_may_have_and_loses_none_that_it_has() {
    let server = Server::start(&["--connections-per-source=2"]);
    let producers = [producer(&server), producer(&server)];
    let mut third = server.connect();
    assert!(read_to_close(&mut third).is_empty(), "closed without a word");
    for producer in &producers {
        let sequence = producer.send(Priority::High, "limits/test", b"in time").expect("taken");
        assert_eq!(producer.wait(sequence).expect("an outcome"), Outcome::Acked);
    }
    assert!(metric(&server, "eventstream_connections_closed_total", "source_limit") >= 1);
    producers.into_iter().for_each(|producer| drop(producer.close().expect("an end in good order")));
    server.wait_for("one connection less", |_| metric(&server, "eventstream_connections_open", "") == 0);
    producer(&server).close().expect("who has left makes room");
    server.stop().assert_clean();
}

#[test]
fn a_source_beyond_its_rate_waits_and_loses_nothing() {
    const EVENTS: u32 = 1500;
    let server = Server::start(&["--events-per-source=1000"]);
    let mut stream = server.connect();
    let bytes: Vec<u8> = (0..EVENTS).flat_map(|number| frame(0, "limits/rate", number.to_string().as_bytes())).collect();
    stream.write_all(&bytes).expect("the engine reads on, or the kernel keeps it");
    drop(stream);
    server.wait_stored(u64::from(EVENTS));
    assert!(metric(&server, "eventstream_rate_waits_total", "") > 0, "it did not wait");
    // A drain does not wait for credit.
    let mut stream = server.connect();
    stream.write_all(&bytes[..bytes.len() / 2]).expect("taken");
    server.wait_for("what comes next", |status| term(status, "received") > u64::from(EVENTS));
    server.stop().assert_clean();
}

#[test]
fn datagrams_beyond_the_rate_of_their_source_are_dropped_by_name_and_stored_below_it() {
    const RATE: u64 = 10;
    const DATAGRAMS: u64 = 10;
    const FRAMES: u64 = 50;
    let server = Server::start(&[&format!("--events-per-source={RATE}")]);
    let socket = server.udp_socket();
    for datagram in 0..DATAGRAMS {
        let frames = (0..FRAMES).flat_map(|number| frame(0, "limits/datagrams", format!("{datagram}.{number}").as_bytes()));
        socket.send(&frames.collect::<Vec<u8>>()).expect("loopback");
    }
    let all =
        server.wait_for("all of them", |status| term(status, "received") == DATAGRAMS * FRAMES && term(status, "in_flight") == 0);
    // However long it took: a second's worth is the most that one datagram finds.
    assert!(lost(&all, "source_rate") >= DATAGRAMS * (FRAMES - RATE) && term(&all, "stored") >= RATE, "{all:#}");
    assert_eq!(lost(&all, "source_rate"), metric(&server, "eventstream_events_dropped_total", "source_rate"));
    let ended = server.stop();
    assert!(ended.assert_clean().stdout.contains("source_rate"), "{}", ended.stdout);
}

/// A connection whose receive buffer was small from the start, so that few answers fill it.
fn connect_with_a_small_receive_buffer(address: SocketAddr) -> TcpStream {
    let SocketAddr::V4(address) = address else { panic!("engines of tests listen on IPv4") };
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "a socket");
    // SAFETY: fresh, and nobody else's.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    let bytes: libc::c_int = 4096;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: a valid int of its own size.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const bytes).cast(), len) };
    assert_eq!(set, 0, "a small buffer");
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: a valid sockaddr_in of its own size.
    let connected = unsafe { libc::connect(fd, (&raw const to).cast(), size_of_val(&to) as libc::socklen_t) };
    assert_eq!(connected, 0, "it listens");
    stream.set_write_timeout(Some(PATIENCE)).expect("an option");
    stream
}

#[test]
fn a_client_that_never_reads_its_answers_is_closed_and_others_do_not_notice() {
    let server = Server::start(&["--frame-deadline-ms=300"]);
    let other = producer(&server);
    let mut deaf = connect_with_a_small_receive_buffer(server.tcp);
    deaf.set_nodelay(true).expect("an option");
    let mut hello = [0; HELLO_BYTES_MAX];
    let id = ProducerId::from_bytes([7; 16]).expect("not zero");
    let len = Hello { level: AckLevel::Written, producer: id, lowest_unacked: 1, token: b"" }.encode(&mut hello);
    deaf.write_all(&hello[..len]).expect("sent");
    server.wait_for("two welcomes", |_| metric(&server, "eventstream_sessions_welcomed_total", "") == 2);
    let give_up = Instant::now() + PATIENCE;
    // Each ping is worth an answer; none is read, so they fill both buffers, and then the outbox is stuck.
    while deaf.write_all(&ClientMessage::PING).is_ok() {
        assert!(Instant::now() < give_up, "nobody closes a client that does not read");
    }
    assert_eq!(metric(&server, "eventstream_session_errors_total", "slow_reader"), 1);
    for _ in 0..100 {
        let sequence = other.send(Priority::Medium, "limits/other", b"as ever").expect("taken");
        assert_eq!(other.wait(sequence).expect("an outcome"), Outcome::Acked);
    }
    other.close().expect("an end in good order");
    server.stop().assert_clean();
}
