//! A Redis Cluster of a test's own: some masters, each with its share of the slots, and replicas.

use super::eventually;
use super::redis::RedisServer;
use std::fmt::Write as _;

const SLOTS: usize = 16_384;

/// Killed when dropped.
pub struct RedisCluster {
    pub masters: Vec<RedisServer>,
    /// The nth is of the nth master.
    pub replicas: Vec<RedisServer>,
}

impl RedisCluster {
    /// Ready when every server knows that all slots are served.
    pub async fn start(masters: usize, replicas: usize) -> Self {
        let start = |_| RedisServer::start_of_cluster();
        let cluster = Self {
            masters: (0..masters).map(start).collect(),
            replicas: (0..replicas).map(start).collect(),
        };
        for (nth, master) in cluster.masters.iter().enumerate() {
            let (first, next) = (nth * SLOTS / masters, (nth + 1) * SLOTS / masters);
            let range = format!("CLUSTER ADDSLOTSRANGE {first} {}", next - 1);
            assert_eq!(master.ask(&range), "OK");
            // Two servers with one epoch would have to settle it first.
            assert_eq!(
                master.ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", nth + 1)),
                "OK"
            );
        }
        for server in cluster.servers() {
            cluster.meet(server);
        }
        cluster.is_fine().await;
        for (replica, master) in cluster.replicas.iter().zip(&cluster.masters) {
            let replicate = format!("CLUSTER REPLICATE {}", id(master));
            eventually("a replica knows its master", async || {
                (replica.ask(&replicate) == "OK").then_some(())
            })
            .await;
            eventually("a replica is a copy", async || {
                let told = replica.ask("INFO replication");
                told.contains("master_link_status:up").then_some(())
            })
            .await;
        }
        for server in cluster.servers() {
            eventually("all know the replicas", async || {
                let slots = server.ask("CLUSTER NODES");
                let known = slots.matches(" slave ").count() + slots.matches(",slave ").count();
                (known == replicas).then_some(())
            })
            .await;
        }
        cluster
    }

    /// A master without slots.
    pub async fn grow(&mut self) {
        let server = RedisServer::start_of_cluster();
        self.meet(&server);
        self.masters.push(server);
        self.is_fine().await;
    }

    pub fn url(&self) -> String {
        let mut url = "redis+cluster://".to_owned();
        for (nth, server) in self.masters.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            let _ = write!(url, "{comma}{}", server.address());
        }
        url
    }

    /// Slot of a key, and the place of the master that has it.
    pub fn owner_of(&self, key: &str) -> (u16, usize) {
        let slot = self.masters[0].ask(&format!("CLUSTER KEYSLOT {key}"));
        let slot = slot.parse().unwrap();
        let owner = self.masters.iter().position(|master| has(master, slot));
        (slot, owner.expect("somebody has it"))
    }

    /// Waits until the replica of the nth master has all that it has now.
    pub async fn is_copied(&self, nth: usize) {
        let offset = |server: &RedisServer| -> u64 {
            let told = server.ask("INFO replication");
            let keys = ["slave_repl_offset:", "master_repl_offset:"];
            let find = |key| told.lines().find_map(|line| line.strip_prefix(key));
            let offset = keys.into_iter().find_map(find);
            offset.unwrap().trim().parse().unwrap()
        };
        let wanted = offset(&self.masters[nth]);
        eventually("the replica has the count", async || {
            (offset(&self.replicas[nth]) >= wanted).then_some(())
        })
        .await;
    }

    /// Begins to move a slot: from now on, who does not have a key points to the other.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (from, to) = (&self.masters[from], &self.masters[to]);
        let importing = format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(from));
        assert_eq!(to.ask(&importing), "OK");
        let migrating = format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(to));
        assert_eq!(from.ask(&migrating), "OK");
    }

    /// Moves the keys, one after the other; how many.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) -> usize {
        let (from, to) = (&self.masters[from], self.masters[to].address());
        let mut moved = 0;
        loop {
            let keys = from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
            if keys.is_empty() {
                return moved;
            }
            for key in keys.lines() {
                let migrate = format!("MIGRATE {} {} {key} 0 5000", to.ip(), to.port());
                let done = from.ask(&migrate);
                // A key may expire on the way.
                assert!(["OK", "NOKEY"].contains(&done.as_str()), "{done}");
                moved += 1;
            }
        }
    }

    /// Says that the slot has moved: first to its new owner, then to all.
    pub fn end_move(&self, slot: u16, to: usize) {
        let node = format!("CLUSTER SETSLOT {slot} NODE {}", id(&self.masters[to]));
        assert_eq!(self.masters[to].ask(&node), "OK");
        for master in &self.masters {
            assert_eq!(master.ask(&node), "OK");
        }
    }

    fn servers(&self) -> impl Iterator<Item = &RedisServer> {
        self.masters.iter().chain(&self.replicas)
    }

    /// Everybody, for word of mouth takes its time.
    fn meet(&self, server: &RedisServer) {
        for other in self.servers() {
            let (address, bus) = (other.address(), other.bus());
            let meet = format!("CLUSTER MEET {} {} {bus}", address.ip(), address.port());
            assert_eq!(server.ask(&meet), "OK");
        }
    }

    async fn is_fine(&self) {
        let count = format!("cluster_known_nodes:{}", self.servers().count());
        for server in self.servers() {
            eventually("the cluster is fine", async || {
                let told = server.ask("CLUSTER INFO");
                (told.contains("cluster_state:ok") && told.contains(&count)).then_some(())
            })
            .await;
        }
    }
}

fn id(server: &RedisServer) -> String {
    server.ask("CLUSTER MYID")
}

fn has(server: &RedisServer, slot: u16) -> bool {
    let nodes = server.ask("CLUSTER NODES");
    let mine = nodes.lines().find(|line| line.contains("myself"));
    let ranges = mine.unwrap_or_default().split_whitespace().skip(8);
    let mut ranges = ranges.filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    ranges.any(|(first, last): (u16, u16)| (first..=last).contains(&slot))
}
