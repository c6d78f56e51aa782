//! A disk that refuses writes.

use eventstream::client::AckLevel;

use super::disk::Disk;
use super::support::numbered::{Account, Load, Watch};
use super::support::refused::assert_three_lines;
use super::support::*;

#[test]
#[ignore = "needs a disk that may be wiped: make test-vm"]
fn refused_writes_stop_the_store_with_an_account_and_take_nothing_announced() {
    for durability in ["--durability=none", "--durability=group", "--durability=always"] {
        let Some(disk) = Disk::on_the_flaky_device() else { return };
        let data = disk.path().join("data");
        let server = Server::start_on(&data, &[durability]);
        let mut account = Account::default();
        let watch = Watch::start(&server, AckLevel::Durable);
        let load = Load::start(&server, 0, 2);
        server.wait_stored(1);
        disk.refuse_writes();
        let ended = server.wait();
        watch.end(&mut account);
        load.end(&mut account);
        assert_eq!(ended.status.code(), Some(1), "{}\n{}", ended.stdout, ended.stderr);
        assert_three_lines(&ended.stderr);
        assert!(ended.stderr.contains("FAILED") && ended.stderr.contains("os error 5"), "{}", ended.stderr);
        assert!(ended.stdout.contains("ledger: balanced"), "{}", ended.stdout);
        disk.power_on();
        Server::start_on(&data, &[]).stop().assert_clean();
        account.audit(&data).assert_kept();
    }
}
