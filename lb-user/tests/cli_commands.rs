//! The program as users run it: exit codes, what goes to which stream, and how an agent is found.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

const RIGHT: &str = r#"
[admin]
http = "ADMIN"
[xdp]
interfaces = ["eth0"]
[[listener]]
name = "mqtt"
bind = ["10.77.0.2:1883", "[fd77::2]:1883"]
pool = "emqx"
[pool.emqx]
health = { kind = "http" }
[[pool.emqx.backend]]
name = "emqx1"
address = ["10.77.1.2:1883", "[fd77:1::2]:1883"]
weight = 5
"#;

fn mqlb(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqlb"));
    command
        .args(arguments)
        .env_remove("MQLB_ADMIN")
        .env_remove("MQLB_LOG");
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A configuration file in a directory that goes with the guard.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mqlb.toml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn right_file(admin: &str) -> (tempfile::TempDir, PathBuf) {
    file(&RIGHT.replace("ADMIN", admin))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Answers one request with `body`; the thread ends with the request's first line.
fn agent(status: &'static str, body: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        String::from_utf8(request)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_owned()
    });
    (address, thread)
}

const STATUS: &str = r#"{"version":"0.1.0","name":"edge","uptime_seconds":61,"ready":true,"mode":"native",
"interfaces":[{"name":"eth0","mode":"native","ifindex":2}],
"listeners":[{"name":"mqtt","kind":"mqtt","bind":["10.77.0.2:1883"],"pool":"emqx","datapath":"xdp","source":"snat","proxy_protocol":"off"}],
"pools":[{"name":"emqx","policy":"round-robin","backends":[{"name":"emqx1","address":["10.77.1.2:1883"],"state":"up",
"weight":5,"flows":7,"assigned_total":9,"failures_total":1}]}],
"steered":{"kernel":11,"agent":12},"flows":{"current":14,"capacity":262144},
"bindings":{"current_estimate":null,"capacity":1048576},"setups":{"sniffing":1,"connecting":2},
"counters":{"spliced":{"packets":100,"bytes":9000},"fragment":{"packets":0,"bytes":0}},"rejects":{"level":4},"later":1}"#;

#[test]
fn wrong_use_exits_with_2() {
    for arguments in [
        &[][..],
        &["serve"],
        &["run"],
        &["check", "--config"],
        &["where"],
        &["flows", "--limit", "0"],
        &["unload"],
        &["unload", "--name", "a", "--config", "b"],
        &["unload", "--name", "../a"],
        &["status", "--admin", "http://127.0.0.1:1", "--config", "x"],
        &["status", "--admin", "ftp://127.0.0.1"],
    ] {
        let output = mqlb(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    assert_eq!(code(&mqlb(&["--help"])), 0);
    assert!(stdout(&mqlb(&["--version"])).starts_with("mqlb "));
}

#[test]
fn check_shows_what_would_run() {
    let (_directory, path) = right_file("127.0.0.1:8888");
    let output = mqlb(&["check", "--config", text(&path)]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let shown = stdout(&output);
    for line in [
        "admin     http://127.0.0.1:8888",
        "blocked   0 source prefixes, 0 client identifiers",
        "mqtt      mqtt  10.77.0.2:1883, [fd77::2]:1883  emqx  auto      snat    off    -                -",
        "round-robin  http :18083/api/v5/status and /api/v5/load_rebalance/availability_check every 1s  0s          at once  -        -",
        "emqx1    10.77.1.2:1883, [fd77:1::2]:1883       5          -",
    ] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
    let output = mqlb(&["check", "--config", text(&path), "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &value["ok"]), (0, &true.into()));
    assert_eq!(value["config"]["pool"]["emqx"]["backend"][0]["weight"], 5);
    assert_eq!(
        value["config"]["pool"]["emqx"]["health"]["path"],
        "/api/v5/status"
    );
    assert_eq!(value["config"]["timeouts"]["keepalive_zero"], "1d");
}

#[test]
fn a_wrong_file_exits_with_2_and_names_every_line() {
    let wrong = RIGHT
        .replace("ADMIN", "nowhere")
        .replace("weight", "wieght");
    let (_directory, path) = file(&wrong);
    for command in ["run", "check"] {
        let output = mqlb(&[command, "--config", text(&path)]);
        assert_eq!(code(&output), 2);
        let shown = stderr(&output);
        assert!(
            shown.starts_with(&format!("{}:3:8: http = \"nowhere\"", text(&path))),
            "{shown}"
        );
        assert!(
            shown.contains(&format!("{}:15:1: unknown key \"wieght\"", text(&path))),
            "{shown}"
        );
        assert!(output.stdout.is_empty());
    }
    let output = mqlb(&["check", "--json", "--config", text(&path)]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &value["ok"]), (2, &false.into()));
    assert_eq!(value["problems"][1]["line"], 15);

    let output = mqlb(&["run", "--config", "/nowhere/mqlb.toml"]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("/nowhere/mqlb.toml: cannot read"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn status_is_shown_or_passed_on() {
    let (address, thread) = agent("200 OK", STATUS);
    let output = mqlb(&["status", "--admin", &format!("http://{address}")]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(thread.join().unwrap(), "GET /api/v1/status HTTP/1.1");
    let shown = stdout(&output);
    for line in [
        "mqlb 0.1.0 \"edge\": ready, up 1m1s\n",
        "emqx  emqx1    up          5      7         9         1  10.77.1.2:1883\n",
        "spliced      100   9000\n",
        "level            4\n",
    ] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
    assert!(
        !shown.contains("fragment"),
        "what never happened is left out:\n{shown}"
    );

    let (address, thread) = agent("200 OK", STATUS);
    let output = mqlb(&["status", "--json", "--admin", &format!("http://{address}")]);
    thread.join().unwrap();
    assert_eq!(stdout(&output), format!("{STATUS}\n"));
}

#[test]
fn the_agent_is_found_by_file_and_by_variable() {
    let (address, thread) = agent("200 OK", STATUS);
    // Mistakes and unset variables elsewhere in the file do not matter here.
    let text_ = RIGHT
        .replace("ADMIN", &format!("0.0.0.0:{}", address.port()))
        .replace("10.77.1.2", "${MQLB_TEST_UNSET}");
    let (_directory, path) = file(&text_);
    let output = mqlb(&["status", "--config", text(&path)]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    thread.join().unwrap();

    let (address, thread) = agent("200 OK", STATUS);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqlb"));
    let output = command
        .arg("status")
        .env("MQLB_ADMIN", format!("http://{address}"))
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    thread.join().unwrap();
}

#[test]
fn where_sends_any_identifier() {
    let body = r#"{"client_id_hash":"00ff","backend":"emqx2","pool":"emqx","last_seen_seconds":63,"connected":true}"#;
    let (address, thread) = agent("200 OK", body);
    let output = mqlb(&["where", "a b/+ü", "--admin", &format!("http://{address}")]);
    assert_eq!(
        thread.join().unwrap(),
        "GET /api/v1/where?id=a%20b%2F%2B%C3%BC HTTP/1.1"
    );
    assert_eq!(
        stdout(&output),
        "emqx2 in pool emqx, connected, last seen 1m3s ago (hash 00ff)\n"
    );

    let body = r#"{"client_id_hash":"00ff","backend":null,"pool":null,"last_seen_seconds":null,"connected":false}"#;
    let (address, thread) = agent("200 OK", body);
    let output = mqlb(&["where", "x", "--admin", &format!("http://{address}")]);
    thread.join().unwrap();
    assert_eq!(code(&output), 0);
    assert!(
        stdout(&output).starts_with("bound to no backend"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn flows_are_listed() {
    let body = r#"{"flows":[{"client":"10.77.0.9:40000","vip":"10.77.0.2:1883","snat":"10.77.1.1:10001","backend":"emqx1",
"backend_address":"10.77.1.2:1883","state":"established","idle_seconds":4,"packets_up":5,"bytes_up":600,
"packets_down":7,"bytes_down":800,"client_id_hash":null}]}"#;
    let (address, thread) = agent("200 OK", body);
    let admin = format!("http://{address}");
    let output = mqlb(&[
        "flows",
        "--limit",
        "5",
        "--backend",
        "emqx1",
        "--admin",
        &admin,
    ]);
    assert_eq!(
        thread.join().unwrap(),
        "GET /api/v1/flows?limit=5&backend=emqx1 HTTP/1.1"
    );
    let shown = stdout(&output);
    let row = shown.lines().nth(1).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    let expected = [
        "10.77.0.9:40000",
        "10.77.0.2:1883",
        "10.77.1.1:10001",
        "emqx1",
        "10.77.1.2:1883",
        "established",
        "4s",
        "5",
        "600",
        "7",
        "800",
        "-",
    ];
    assert_eq!(cells, expected);
}

#[test]
fn an_agent_that_fails_or_is_not_there_exits_with_1() {
    let (address, thread) = agent("400 Bad Request", r#"{"error":"limit=x is no number"}"#);
    let output = mqlb(&["flows", "--admin", &format!("http://{address}")]);
    thread.join().unwrap();
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("limit=x is no number"),
        "{}",
        stderr(&output)
    );

    let (address, thread) = agent("200 OK", "<html>");
    let output = mqlb(&["status", "--admin", &format!("http://{address}")]);
    thread.join().unwrap();
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("another version"),
        "{}",
        stderr(&output)
    );

    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = mqlb(&["status", "--admin", &format!("http://{address}")]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("is the agent running?"),
        "{}",
        stderr(&output)
    );
}
