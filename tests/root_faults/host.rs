//! What a host has that the machine of a developer seldom has: two memory nodes, the oldest kernel.

use std::collections::BTreeMap;

use super::support::*;

const PAGE_BYTES: u64 = 4096;

/// A command that prints JSON.
fn json(arguments: &[&str]) -> serde_json::Value {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// CPUs of a memory node, from a list like `0-1,4`.
fn cpus_of(node: u32) -> Vec<u64> {
    let path = format!("/sys/devices/system/node/node{node}/cpulist");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let bound = |text: &str| text.parse::<u64>().expect("a number");
    let range = |part: &str| part.split_once('-').map_or(bound(part)..=bound(part), |(from, to)| bound(from)..=bound(to));
    text.trim().split(',').flat_map(range).collect()
}

/// Resident bytes of areas bound to each memory node, by the node they are really on: `(bound to, lies on)`.
fn bound_bytes(pid: i32) -> BTreeMap<(u32, u32), u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).expect("our child, on a kernel with NUMA");
    let mut bytes = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(bound_to) = words.get(1).and_then(|policy| policy.strip_prefix("bind:")?.parse().ok()) else { continue };
        for word in &words[2..] {
            let Some((node, pages)) = word.strip_prefix('N').and_then(|word| word.split_once('=')) else { continue };
            let lies_on = node.parse().expect("a number");
            *bytes.entry((bound_to, lies_on)).or_default() += pages.parse::<u64>().expect("a number") * PAGE_BYTES;
        }
    }
    bytes
}

/// CPUs that exactly one of the process's threads is pinned to.
fn pinned_cpus(pid: i32) -> Vec<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("our child");
    let allowed = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().parse().ok()
    });
    allowed.collect()
}

#[test]
#[ignore = "needs two memory nodes: make test-vm"]
fn each_node_has_its_pipeline_its_memory_and_its_log() {
    if !std::path::Path::new("/sys/devices/system/node/node1").exists() {
        return skip("this host has one memory node");
    }
    let plans = json(&["topology", "--json"]);
    let runners = plans[0]["runners"].as_array().expect("a list").clone();
    let nodes: std::collections::BTreeSet<u64> =
        runners.iter().map(|runner| runner["node"].as_u64().expect("a number")).collect();
    assert_eq!(nodes.len(), 2, "{plans:#}");

    let server = Server::start(&[]);
    // Enough connections for the kernel to spread over both nodes' listeners.
    for connection in 0..64 {
        let frames = (0..20).flat_map(|n| frame((n % 5) as u8, "two/nodes", format!("{connection} {n}").as_bytes()));
        send_all(&server, &frames.collect::<Vec<u8>>());
    }
    let status = server.wait_stored(64 * 20);
    for log in status["logs"].as_array().expect("a list") {
        assert!(log["written_sequence"].as_u64() > Some(0), "a node without events: {status:#}");
    }
    let pinned = pinned_cpus(server.pid());
    for runner in &runners {
        let (node, cpu) = (runner["node"].as_u64().expect("a number"), runner["cpu"].as_u64().expect("pinned"));
        assert!(cpus_of(node as u32).contains(&cpu), "a runner of node {node} is planned on CPU {cpu}");
        assert!(pinned.contains(&cpu), "no thread is pinned to CPU {cpu}: {pinned:?}");
    }
    let bound = bound_bytes(server.pid());
    let arena_of = |node| bound.get(&(node, node)).copied().unwrap_or(0);
    assert!(arena_of(0) > 8 << 20 && arena_of(1) > 8 << 20, "little memory is bound: {bound:?}");
    assert!(bound.keys().all(|(bound_to, lies_on)| bound_to == lies_on), "memory lies elsewhere than bound: {bound:?}");
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len(), 64 * 20);
    assert!(ended.data.join("events.bin").exists() && ended.data.join("events.node1.bin").exists());
}

#[test]
#[ignore = "needs the oldest kernel: make test-vm"]
fn the_oldest_kernel_is_enough_and_doctor_says_what_it_lacks() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    if !release.starts_with("6.1.") {
        return skip(&format!("the kernel is {}, not 6.1", release.trim()));
    }
    let findings = json(&["doctor", "--json"]);
    let severity = |what: &str| {
        let row = findings.as_array().expect("a list").iter().find(|row| row["what"] == what);
        row.unwrap_or_else(|| panic!("no row {what} in {findings:#}"))["severity"].as_str().expect("text").to_owned()
    };
    for there in ["defer_taskrun", "restrictions", "registered_ring", "multishot_accept", "multishot_recv", "multishot_recvmsg"] {
        assert_eq!(severity(there), "ok", "{there}");
    }
    for lacking in ["kernel", "no_sqarray", "min_wait", "byte_cap"] {
        assert_ne!(severity(lacking), "ok", "{lacking}");
    }
}
