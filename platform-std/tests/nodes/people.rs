//! What a person does with a cluster, by the program and over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use quorate_std::image::{self, ImageError};

use crate::process::{Cluster, LONG, Process, SIZES, quorate, refused, run};

#[test]
fn the_interface_of_raftexample_answers_with_its_status_codes() {
    let cluster = Cluster::start(3, &[]);
    for (at, node) in cluster.nodes.iter().enumerate() {
        let key = format!("/key-{at}");
        assert_eq!(node.request("PUT", &key, b"hello").unwrap(), (204, String::new()));
        for other in &cluster.nodes {
            assert_eq!(other.request("GET", &key, b"").unwrap(), (200, "hello".into()));
        }
    }
    let node = &cluster.nodes[0];
    let status =
        |method: &str, path: &str, body: &[u8]| node.request(method, path, body).unwrap().0;
    assert_eq!(status("GET", "/none", b""), 404);
    assert_eq!(status("PATCH", "/key", b""), 405);
    assert_eq!(status("POST", "/not-a-number", b"127.0.0.1:1"), 400);
    assert_eq!(status("POST", "/32", b"127.0.0.1:1"), 400);
    assert_eq!(status("POST", "/4", b"nonsense"), 400);
    assert_eq!(status("DELETE", "/not-a-number", b""), 400);
    assert_eq!(status("PUT", "/k?no-such-thing=1", b"x"), 400);
    assert_eq!(status("PUT", &format!("/{}", "k".repeat(300)), b"x"), 413);
    assert_eq!(status("PUT", "/k", &vec![b'x'; 40_000]), 413);
    assert_eq!(status("PUT", "/k", &vec![b'x'; 1_000_000]), 413);
    assert_eq!(status("PUT", "/v1/", b"x"), 404);
    assert_eq!(status("GET", "/k", b""), 404);
    assert_eq!(status("GET", "/health", b""), 200);
    // A member that is added once more stays what it is.
    let leader = cluster.leader();
    let (id, at) = (cluster.nodes[leader].id, cluster.nodes[leader].peer.to_string());
    let told = run(&["member", "list", "--node", &cluster.https()]);
    assert_eq!(status("POST", &format!("/{id}"), at.as_bytes()), 204);
    assert_eq!(run(&["member", "list", "--node", &cluster.https()]), told);
    // What stands behind the first slash, whatever it is.
    assert_eq!(status("PUT", "//key-0", b"other"), 204);
    assert_eq!(node.request("GET", "/key-0", b"").unwrap(), (200, "hello".into()));
    assert_eq!(node.request("GET", "/v1/keys//key-0", b"").unwrap().0, 200);
    // Nobody could find these.
    assert_eq!(status("POST", "/4", b"127.0.0.1:0"), 400);
    for body in [
        r#"{"address": "0.0.0.0:7004"}"#,
        r#"{"adress": "127.0.0.1:7004"}"#,
        r#"{"address": "127.0.0.1:7004", "learner": true}"#,
    ] {
        assert_eq!(status("PUT", "/v1/members/4", body.as_bytes()), 400, "{body}");
    }
    // What is refused has no effect: a member that is put in its own place stays.
    let promote = |id: u8| format!("/v1/members/{id}/promote?in_place_of={id}&force=true");
    assert_eq!(status("POST", &promote(id), b""), 409);
    assert_eq!(run(&["member", "list", "--node", &cluster.https()]), told);
    let metrics = node.request("GET", "/metrics", b"").unwrap().1;
    assert!(metrics.contains("\nquorate_has_leader 1\n"), "{metrics}");
    assert!(metrics.contains("quorate_peer_connected{peer=\"2\"} 1"), "{metrics}");
}

#[test]
fn the_json_api_answers_in_json_whatever_it_is_asked() {
    let cluster = Cluster::start(1, &[]);
    let node = &cluster.nodes[0];
    let long = format!("{{\"value\": \"{}\"}}", "x".repeat(1_000_000));
    for (method, path, body, status) in [
        ("PUT", "/v1/keys/k", long.as_bytes(), 413),
        ("POST", "/v1/keys/k", b"", 405),
        ("GET", "/v1/nonsense", b"", 404),
        ("PUT", "/v1/", b"", 404),
    ] {
        let (told, error) = node.json(method, path, body).unwrap();
        assert!(told == status && error["error"].is_string(), "{method} {path}: {error}");
    }
    // A body much longer than its value, as JSON may have it, and a key of no bytes.
    let value = serde_json::json!({ "value": "\u{1}".repeat(7_000) }).to_string();
    let value = value + &" ".repeat(400_000);
    assert_eq!(node.json("PUT", "/v1/keys/", value.as_bytes()).unwrap().0, 200);
    let (status, read) = node.json("GET", "/v1/keys/", b"").unwrap();
    assert!(status == 200 && read["value"].as_str().unwrap().len() == 7_000, "{read}");
    assert_eq!(run(&["delete", "", "--node", &cluster.https()]), "revision 2\n");
}

#[test]
fn a_person_writes_reads_watches_and_looks() {
    let cluster = Cluster::start(3, &[]);
    let node = cluster.nodes[1].http.to_string();
    let all = cluster.https();
    // What is told of changes from now on.
    let mut watch = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["watch", "a/", "--node", &node])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert!(line().contains("\"watching\":true"));

    assert_eq!(run(&["put", "a/b", "17", "--node", &all]), "revision 1\n");
    assert_eq!(run(&["put", "b", "ä b", "--node", &all]), "revision 2\n");
    assert_eq!(run(&["put", "a/b", "17", "--node", &all]), "unchanged, revision 1\n");
    assert_eq!(run(&["put", "a/b", "true", "--expected", "1", "--node", &all]), "revision 3\n");
    let (code, error) = refused(&["put", "a/b", "x", "--expected", "1", "--node", &all]);
    assert_eq!((code, error.as_str()), (1, "error: the key has revision 3"));
    assert_eq!(run(&["get", "a/b", "--node", &node]), "true\n");
    assert_eq!(run(&["get", "--node", &node]), "a/b = true\nb = \"ä b\"\n");
    assert_eq!(run(&["get", "b", "--local", "--node", &all]), "ä b\n");
    assert_eq!(run(&["delete", "a/b", "--expected", "3", "--node", &all]), "revision 4\n");
    assert_eq!(run(&["put", "n", "-5", "--node", &all]), "revision 5\n");
    assert_eq!(run(&["get", "n", "--node", &all]), "-5\n");
    let (_, error) = refused(&["get", "a/b", "--node", &all]);
    assert_eq!(error, "error: a/b: there is no such key");

    let expected = [
        r#"{"key":"a/b","revision":1,"type":"integer","value":17}"#,
        r#"{"key":"a/b","revision":3,"type":"boolean","value":true}"#,
        r#"{"deleted":true,"key":"a/b","revision":4}"#,
    ];
    assert_eq!([line(), line(), line()], expected);
    watch.kill().unwrap();
    watch.wait().unwrap();

    // Neither is a vote for nobody given, nor does nobody lead, whomever one asks.
    for node in &cluster.nodes {
        let node = node.http.to_string();
        let (_, error) = refused(&["member", "promote", "9", "--force", "--node", &node]);
        assert_eq!(error, "error: node 9 is no member: it has to be added before");
        let (_, error) = refused(&["transfer", "9", "--node", &node]);
        assert_eq!(error, "error: that member has no vote");
    }
    let leader = cluster.leader();
    let to = cluster.nodes[(leader + 1) % 3].id.to_string();
    assert_eq!(run(&["transfer", &to, "--node", &all]), format!("node {to} leads\n"));
    let status = run(&["status", "--node", &all]);
    assert_eq!(status.matches("follower").count(), 2, "{status}");
    assert!(status.contains("leader"), "{status}");
    let file = cluster.dir.path().join("copy.qfl");
    let file = file.to_str().unwrap();
    assert!(run(&["snapshot", file, "--node", &node]).contains("node 2, "));
    assert!(run(&["config", "dump", file]).contains("ä b"));
    let (_, error) = refused(&["snapshot", file, "--node", &node]);
    assert!(error.contains("there is an image already"), "{error}");
}

#[test]
fn a_node_that_joins_finds_the_leader_by_whichever_member_it_knows() {
    let mut cluster = Cluster::start(3, &[]);
    let fourth = Process::new(cluster.dir.path(), 4, &[&["--join"], &SIZES[..]].concat());
    let follower = (cluster.leader() + 1) % 3;
    let added = cluster.nodes[0].request("POST", "/4", fourth.peer.to_string().as_bytes());
    assert_eq!(added.unwrap().0, 204);
    let Process { id, peer, .. } = cluster.nodes[follower];
    let known = format!("{id}={peer},4={}", fourth.peer);
    cluster.nodes.push(fourth);
    cluster.nodes[3].start(&known);
    cluster.wait("the fourth has its place", || {
        let status = cluster.nodes[3].status()?;
        (status["members"].as_array()?.len() == 4).then_some(())
    });
}

#[test]
fn a_member_is_added_a_node_is_replaced_and_a_member_is_removed() {
    let mut cluster = Cluster::start(3, &[]);
    let all = cluster.https();
    for n in 0..30 {
        let key = format!("/key-{n}");
        assert_eq!(cluster.nodes[n % 3].request("PUT", &key, b"x").unwrap().0, 204);
    }
    // A fourth one, as raftexample adds it; nobody waits for it meanwhile.
    let join = [&["--join"], &SIZES[..]].concat();
    let fourth = Process::new(cluster.dir.path(), 4, &join);
    let added = cluster.nodes[0].request("POST", "/4", fourth.peer.to_string().as_bytes());
    assert_eq!(added.unwrap().0, 204);
    cluster.nodes.push(fourth);
    cluster.start_node(3);
    cluster.wait("the fourth has a vote", || {
        let status = cluster.nodes[3].status()?;
        let votes = status["members"].as_array()?.iter().all(|member| member["voter"] == true);
        (votes && status["keys"] == 30).then_some(())
    });
    let list = run(&["member", "list", "--node", &all]);
    assert_eq!(list.matches("yes").count(), 5, "{list}");

    // One of them loses its disk, and comes back under its number.
    let leader = cluster.leader();
    let lost = (0..3).find(|at| *at != leader).unwrap();
    cluster.nodes[lost].kill();
    std::fs::remove_dir_all(&cluster.nodes[lost].data).unwrap();
    let id = cluster.nodes[lost].id;
    let peers = cluster.peers();
    let blank = cluster.nodes[lost].command(&peers).output().unwrap();
    let told = String::from_utf8(blank.stderr).unwrap();
    assert!(!blank.status.success() && told.contains("no node lives here yet"), "{told}");
    let (peer, http) = (cluster.nodes[lost].peer, cluster.nodes[lost].http);
    let mut again = Process::new(cluster.dir.path(), id, &join);
    (again.peer, again.http) = (peer, http);
    cluster.nodes[lost] = again;
    cluster.start_node(lost);
    cluster.wait("it has its vote back", || {
        let status = cluster.nodes[lost].status()?;
        let votes = status["members"].as_array()?.iter().all(|member| member["voter"] == true);
        (votes && status["keys"] == 30 && status["generation"].as_u64()? > 1).then_some(())
    });

    // And one goes for good, by way of whoever does not lead.
    let leader = cluster.leader();
    let id = cluster.nodes[leader].id.to_string();
    let other = cluster.nodes[(leader + 1) % 4].http.to_string();
    let told = run(&["member", "remove", &id, "--node", &other]);
    assert_eq!(told, format!("node {id} is no member any more\n"));
    let mut gone = cluster.nodes.remove(leader);
    assert_eq!(gone.ended(), 0);
    assert!(gone.log().contains("no member of the cluster any more"));
    assert_eq!(cluster.nodes[0].request("PUT", "/after", b"y").unwrap().0, 204);
    cluster.agree();
    // It can't come back as what it was.
    let listed = run(&["member", "list", "--node", &other]);
    assert!(!listed.lines().any(|line| line.trim_start().starts_with(&id)), "{listed}");
}

#[test]
fn with_two_of_three_stopped_writes_are_unknown_and_reads_tell_nothing() {
    let mut cluster = Cluster::start(3, &[]);
    assert_eq!(cluster.nodes[0].request("PUT", "/k", b"old-value").unwrap().0, 204);
    cluster.agree();
    let leader = cluster.leader();
    for at in (0..3).filter(|at| *at != leader) {
        cluster.nodes[at].kill();
    }
    let node = &cluster.nodes[leader];
    // At first it leads, then it knows that it does not.
    for _ in 0..3 {
        let (status, body) = node.request("PUT", "/k?timeout_ms=1500", b"new-value").unwrap();
        assert_eq!(status, 504);
        assert!(body.starts_with("unknown: "), "{body}");
        let (status, body) = node.request("GET", "/k?timeout_ms=1500", b"").unwrap();
        assert_eq!(status, 504);
        assert!(!body.contains("value"), "{body}");
    }
    let (status, body) = node.json("PUT", "/v1/keys/k?timeout_ms=500", b"{\"value\": 1}").unwrap();
    assert_eq!((status, &body["unknown"]), (504, &true.into()));
    let local = node.request("GET", "/k?local=true", b"").unwrap();
    assert_eq!(local, (200, "old-value".into()));
    assert_eq!(node.request("GET", "/health", b"").unwrap().0, 503);
    for at in (0..3).filter(|at| *at != leader) {
        cluster.start_node(at);
    }
    cluster.agree();
    assert_eq!(cluster.nodes[leader].request("PUT", "/k", b"newer").unwrap().0, 204);
}

#[test]
fn what_makes_no_sense_is_refused_by_name_and_harms_nobody() {
    let mut cluster = Cluster::start(3, &[]);
    assert_eq!(cluster.nodes[0].request("PUT", "/k", b"v").unwrap().0, 204);
    let peers = cluster.peers();
    let data = cluster.nodes[0].data.clone();
    let data = data.to_str().unwrap();
    let node = |args: &[&str]| {
        let base = ["node", "--id", "1", "--cluster", &peers, "--data", data];
        refused(&[&base[..], args].concat())
    };
    let (code, error) = node(&["--no-such-flag"]);
    assert!(code == 2 && error.contains("--no-such-flag"), "{error}");
    let (code, error) = node(&[]);
    assert!(code == 1 && error.contains("another process is using this image"), "{error}");
    let (code, error) = node(&["--http", &cluster.nodes[1].http.to_string()]);
    assert!(code == 1 && error.contains("can't listen for HTTP on"), "{error}");

    // Founding once more is refused, also where a member of another cluster lives.
    let (code, error) = refused(&["init", "--cluster", &peers, "--id", "1", "--data", data]);
    assert!(code == 1 && error.contains("there is an image already"), "{error}");

    // All members are founded, or none is.
    let half = cluster.dir.path().join("half");
    std::fs::create_dir_all(half.join("2")).unwrap();
    std::fs::write(half.join("2/node.qfl"), "").unwrap();
    let half_told = half.to_str().unwrap();
    let (code, error) = refused(&["init", "--cluster", &peers, "--data", half_told]);
    assert!(code == 1 && error.contains("there is an image already"), "{error}");
    assert_eq!(std::fs::read_dir(&half).unwrap().count(), 1);
    let nowhere = ["init", "--cluster", "1=0.0.0.0:7001", "--data", half_told];
    let (code, error) = refused(&nowhere);
    assert!(code == 2 && error.contains("nobody could find node 1 at 0.0.0.0:7001"), "{error}");
    // What says how much is held, and would not be listened to; a file may say it for others. And an image with nothing in it.
    let (code, error) = node(&["--log-bytes", "70000"]);
    assert!(code == 2 && error.contains("are for --join"), "{error}");
    let config = cluster.dir.path().join("config.toml");
    std::fs::write(&config, "[sizes]\nlog_bytes = 70000\n").unwrap();
    let (code, error) = node(&["--config", config.to_str().unwrap()]);
    assert!(code == 1 && error.contains("another process is using this image"), "{error}");
    let of_half = ["node", "--id", "2", "--cluster", &peers, "--data"];
    let blank = half.join("2");
    let (code, error) = refused(&[&of_half[..], &[blank.to_str().unwrap()]].concat());
    assert!(code == 1 && error.contains("this image is blank"), "{error}");

    // Garbage on every port, also after a good beginning.
    for node in &cluster.nodes {
        for at in [node.peer, node.http] {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            let noise: Vec<u8> =
                (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            // It may be closed at any byte of it.
            let _ = stream.write_all(&noise);
            let mut stream = TcpStream::connect(at).unwrap();
            let _ = stream.write_all(b"quorate\n");
            let _ = stream.write_all(&noise);
        }
    }
    assert_eq!(cluster.nodes[1].request("PUT", "/k2", b"v").unwrap().0, 204);

    // Another node's directory, and a damaged image; the others go on.
    cluster.nodes[0].kill();
    let other = ["node", "--id", "2", "--cluster", &peers, "--data", data];
    let (code, error) = refused(&other);
    assert!(code == 1 && error.contains("the image of node 1, not of node 2"), "{error}");
    let path = cluster.nodes[0].data.join("node.qfl");
    let sound = std::fs::read(&path).unwrap();
    let damage = |at: usize| {
        let mut damaged = sound.clone();
        damaged[at..at + 64].fill(0);
        let read = image::read(&damaged);
        matches!(read, Err(ImageError::Damaged { .. })).then_some(damaged)
    };
    let begins = sound.iter().position(|byte| *byte != 0xff).unwrap();
    let damaged = (begins..sound.len() - 64).step_by(64).find_map(damage).unwrap();
    std::fs::write(&path, &damaged).unwrap();
    let (code, error) = node(&[]);
    assert!(code == 1 && error.contains("damaged at byte"), "{error}");
    assert!(error.ends_with("a blank one gets its place back"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), damaged, "it was changed");
    assert_eq!(cluster.nodes[1].request("PUT", "/k3", b"v").unwrap().0, 204);
    std::fs::write(&path, &sound).unwrap();
    cluster.start_node(0);
    cluster.agree();
}

#[test]
fn a_node_whose_map_holds_something_else_is_refused_and_comes_back_with_the_right_one() {
    let mut cluster = Cluster::start(3, &[]);
    let config = cluster.dir.path().join("config.toml");
    std::fs::write(&config, "[map]\nkeys = 2\nkey_bytes = 12\nvalue_bytes = 10\nbytes = 300\n")
        .unwrap();
    cluster.nodes[2].kill();
    cluster.nodes[2].extra = vec!["--config".into(), config.to_str().unwrap().into()];
    cluster.start_node(2);
    let why = "refused: all maps have to hold the same: this node's [map] is ";
    cluster.wait("both others have refused it, and it them", || {
        let refused = |node: &Process| node.log_of_life().matches(why).count();
        let told = cluster.nodes.iter().map(refused).collect::<Vec<_>>();
        (told == [1, 1, 2]).then_some(())
    });
    for n in 0..3 {
        let key = format!("/key-{n}");
        assert_eq!(cluster.nodes[n % 2].request("PUT", &key, b"x").unwrap().0, 204);
    }
    assert_eq!(cluster.nodes[2].status().unwrap()["keys"], 0);
    cluster.nodes[2].kill();
    cluster.nodes[2].extra.clear();
    cluster.start_node(2);
    cluster.agree();
    assert_eq!(cluster.nodes[2].status().unwrap()["keys"], 3);
}

#[test]
fn who_is_refused_again_and_again_is_told_of_once() {
    let cluster = Cluster::start(1, &[]);
    let node = &cluster.nodes[0];
    for _ in 0..5 {
        let mut stream = TcpStream::connect(node.peer).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(&[b'x'; 64]).unwrap();
        // It is closed, in one way or the other, once it is refused.
        let _ = stream.read(&mut [0; 64]);
    }
    let log = node.log();
    assert_eq!(log.matches("refused a connection: ").count(), 1, "{log}");
}

#[test]
fn who_asks_for_a_place_again_and_again_is_told_of_once() {
    let mut cluster = Cluster::start(1, &[]);
    let stranger = Process::new(cluster.dir.path(), 2, &[&["--join"], &SIZES[..]].concat());
    cluster.nodes.push(stranger);
    cluster.start_node(1);
    // By then it has asked some times.
    cluster.wait("it says that it waits", || {
        cluster.nodes[1].log().contains("has no place yet").then_some(())
    });
    let told = || cluster.nodes[0].log().matches("node 2 asks for a place").count();
    assert_eq!(told(), 1);
    // Whether it was a member meanwhile or not: it is told anew when the members change.
    let https = cluster.nodes[0].http.to_string();
    run(&["member", "add", "3", "--node", &https]);
    cluster.wait("it is told again", || (told() == 2).then_some(()));
}

#[test]
fn what_a_cluster_holds_is_said_by_the_command_line_or_by_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "[sizes]\nlog_bytes = 4194304\nmap_bytes = 4194304\n").unwrap();
    let config = config.to_str().unwrap();
    let bytes_with = |name: &str, args: &[&str]| {
        let data = dir.path().join(name);
        let told = data.to_str().unwrap();
        let founding = ["init", "--cluster", "1=127.0.0.1:7001", "--id", "1", "--data", told];
        run(&[&founding[..], args].concat());
        std::fs::metadata(data.join("node.qfl")).unwrap().len()
    };
    let large = ["--log-bytes", "4194304", "--map-bytes", "4194304"];
    let by_line = bytes_with("line", &large);
    assert_eq!(bytes_with("file", &["--config", config]), by_line);
    let both = bytes_with("both", &["--config", config, "--log-bytes", "131072"]);
    assert_eq!(both, bytes_with("small", &["--log-bytes", "131072", "--map-bytes", "4194304"]));
    assert!(both < by_line && bytes_with("usual", &[]) < by_line);
}

#[test]
fn a_disk_that_is_full_when_a_cluster_is_founded_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let founded = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_quorate"),
        ])
        .args(["init", "--cluster", "1=127.0.0.1:7001", "--id", "1", "--data"])
        .arg(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8(founded.stderr).unwrap();
    assert_eq!(founded.status.code(), Some(1), "{told}");
    assert!(told.contains("can't write this image: "), "{told}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let again = quorate(&[
        "init",
        "--cluster",
        "1=127.0.0.1:7001",
        "--id",
        "1",
        "--data",
        dir.path().to_str().unwrap(),
    ]);
    assert!(again.status.success());
}

#[test]
fn a_founding_that_fails_half_way_leaves_no_member_behind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    // No directory can be made there.
    std::fs::write(dir.path().join("2"), "").unwrap();
    let cluster = ["init", "--cluster", "1=127.0.0.1:7001,2=127.0.0.1:7002", "--data", data];
    let (code, error) = refused(&cluster);
    assert!(code == 1 && error.contains("can't make this directory"), "{error}");
    assert!(!dir.path().join("1/node.qfl").exists());
    std::fs::remove_file(dir.path().join("2")).unwrap();
    assert!(run(&cluster).contains("node 2 at 127.0.0.1:7002"));
}
