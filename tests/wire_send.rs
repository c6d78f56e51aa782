//! `send` against receivers that read plain sockets.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread::JoinHandle;

use argh::FromArgs;
use eventstream::commands::send::{Plan, SendCommand, SendError, SendSummary, send};
use eventstream::wire::{FrameLimits, Priority, datagram};

/// What a receiver got: priority, topic, body.
type Received = (Priority, String, Vec<u8>);

fn frames(bytes: &[u8]) -> Vec<Received> {
    datagram(bytes, &FrameLimits::FORMAT)
        .map(|frame| frame.expect("well-formed"))
        .map(|frame| (frame.priority, frame.topic.as_str().to_owned(), frame.body.to_vec()))
        .collect()
}

/// Reads so many connections to their ends, one thread each.
fn tcp_receiver(connections: usize) -> (SocketAddr, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let receiver = std::thread::spawn(move || {
        let readers: Vec<_> = (0..connections)
            .map(|_| {
                let (mut stream, _) = listener.accept().expect("a connection");
                std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).expect("an orderly end");
                    bytes
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("reader")).collect()
    });
    (address, receiver)
}

fn run(flags: &[&str]) -> Result<SendSummary, SendError> {
    let command = SendCommand::from_args(&["send"], flags).expect("known flags");
    send(&Plan::try_from(command)?)
}

#[test]
fn generated_events_all_arrive_over_every_connection_of_every_thread() {
    let (address, receiver) = tcp_receiver(5);
    let flags = ["--generate", "20000", "--connections", "5", "--threads", "2", "--write-bytes", "4096"];
    let summary = run(&[&flags[..], &["--tcp", &address.to_string()]].concat()).expect("sent");
    let streams = receiver.join().expect("receiver");
    assert!(streams.iter().all(|stream| !stream.is_empty()));
    let events: Vec<_> = streams.iter().flat_map(|stream| frames(stream)).collect();
    assert_eq!(events.len(), 20_000);
    assert_eq!(events.iter().map(|(_, _, body)| body).collect::<HashSet<_>>().len(), 20_000);
    assert_eq!(summary.sent.events(), 20_000);
    assert_eq!(summary.sent.bytes, streams.iter().map(|stream| stream.len() as u64).sum::<u64>());
    assert_eq!(summary.unconfirmed_connections, 0);
    for priority in Priority::ALL {
        let received = events.iter().filter(|(of, ..)| *of == priority).count();
        assert_eq!(summary.sent.events_by_priority[priority as usize], received as u64);
    }
}

#[test]
fn lines_arrive_in_order_with_their_topic_and_priority() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"one\ntwo\n\nthree").expect("written");
    let (address, receiver) = tcp_receiver(1);
    let path = file.path().to_str().expect("a plain path");
    run(&["--tcp", &address.to_string(), "--file", path, "--topic", "a/b", "--priority", "high"]).expect("sent");
    let expected = ["one", "two", "three"].map(|body| (Priority::High, "a/b".to_owned(), body.as_bytes().to_vec()));
    assert_eq!(frames(&receiver.join().expect("receiver")[0]), expected);
}

#[test]
fn raw_files_arrive_byte_for_byte_even_if_they_are_no_frames() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let bytes = [&b"\0\0\0\x04\x01\0\x01t"[..], b"GET / HTTP/1.1"].concat();
    file.write_all(&bytes).expect("written");
    let (address, receiver) = tcp_receiver(1);
    let path = file.path().to_str().expect("a plain path");
    let summary = run(&["--tcp", &address.to_string(), "--file", path, "--raw"]).expect("sent");
    assert_eq!(receiver.join().expect("receiver")[0], bytes);
    assert_eq!((summary.sent.events(), summary.sent.bytes), (1, bytes.len() as u64));
}

#[test]
fn datagrams_hold_as_many_events_as_asked_for() {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = receiver.local_addr().expect("bound").to_string();
    let summary = run(&["--udp", &address, "--generate", "100", "--datagram-events", "8", "--rate", "0"]).expect("sent");
    assert_eq!(summary.sent.events(), 100);
    let mut buffer = [0; 65_536];
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 100 {
        let bytes = receiver.recv(&mut buffer).expect("a datagram");
        sizes.push(frames(&buffer[..bytes]).len());
    }
    assert_eq!(sizes, [vec![8; 12], vec![4]].concat());
}

#[test]
fn nobody_listening_is_said_with_the_address() {
    // Bound and closed again: free, and nobody listens.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let error = run(&["--generate", "1", "--tcp", &address.to_string()]).unwrap_err();
    assert!(matches!(error, SendError::Connect { .. }) && !error.is_usage());
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("refused"), "{text}");
    let error = run(&["--generate", "1", "--udp", &address.to_string()]).unwrap_err();
    assert!(matches!(error, SendError::Lost { .. }), "{error}");
}

#[test]
fn a_receiver_that_goes_away_is_an_error_that_says_how_far_it_went() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.read_exact(&mut [0; 1000]).expect("the beginning");
    });
    let error = run(&["--generate", "1000000", "--connections", "1", "--tcp", &address]).unwrap_err();
    receiver.join().expect("receiver");
    let SendError::Lost { sent, .. } = error else { panic!("{error}") };
    assert!(sent.bytes >= 1000 && (1..1_000_000).contains(&sent.events()), "{sent:?}");
}

#[test]
fn a_receiver_that_does_not_read_is_reported_as_unconfirmed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let summary = run(&["--generate", "3", "--connections", "2", "--close-wait-ms", "20", "--tcp", &address]).expect("sent");
    assert_eq!((summary.sent.events(), summary.unconfirmed_connections), (3, 2));
}

#[test]
fn events_beyond_a_datagram_are_refused() {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = receiver.local_addr().expect("bound").to_string();
    let error = run(&["--udp", &address, "--generate", "1", "--body-bytes", "65507"]).unwrap_err();
    assert!(matches!(error, SendError::DatagramTooLong { bytes: 65_508.., .. }), "{error}");
}

#[test]
fn the_committed_samples_are_events_of_all_priorities() {
    let mut priorities = HashSet::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/data/samples")).expect("committed") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue; // A sample of rules.
        }
        let (address, receiver) = tcp_receiver(1);
        let path = path.to_str().expect("a plain path");
        let summary = run(&["--tcp", &address.to_string(), "--json-lines", "--file", path]).expect("sent");
        let events = frames(&receiver.join().expect("receiver")[0]);
        assert_eq!(summary.sent.events(), events.len() as u64);
        assert!(events.len() >= 10, "{path}");
        priorities.extend(events.into_iter().map(|(priority, ..)| priority));
    }
    assert_eq!(priorities.len(), Priority::ALL.len());
}
