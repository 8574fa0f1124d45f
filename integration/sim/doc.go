// Package sim runs the cluster's rules through failures by the hour: the real decide, the real record and the real gate, against models of
// Raft, PostgreSQL, disks, links, clocks and processes, as discrete events in virtual time. One seed is one history; nothing in it depends on
// the wall clock or on goroutines, so a seed replays exactly.
//
// What is real: failover/decide, failover.Gate, raftwitness/record. What follows the product's code line by line is the rest of the agent
// (kine*.go after failover's agent.go, input.go, local.go, lane.go, perform.go and wish.go) and the voter (voter*.go after raftwitness's
// voter.go, promise.go, lease.go, departure.go, impatience.go and lead.go, and after hashicorp/raft). PostgreSQL is a model: WAL is a tree of
// entries, a timeline is a branch, and whether one node can follow another is judged by timelines and positions, as PostgreSQL does, and not by
// contents, which a checker compares.
//
// What is left out: bytes, queries, the engine's index, forwarding, certificates, changes of the voters. A disk that lies about fsync, and a
// clock that stands still during a suspension which nobody can notice, are outside the product's promises and are not simulated.
//
// Checkers (check*.go) look at the world from outside, after every event; the world does not know them.
package sim
