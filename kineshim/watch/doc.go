// Package watch serves etcd's Watch API from the commits that one writer publishes.
//
// # How an event reaches a client
//
// The engine calls Publish with every durable commit. Publish keeps the commits in a ring in memory, finds the watchers
// of every event's key (a map for single keys, a tree of intervals for ranges; watchers of one span share the result) and
// appends a reference to each watcher's pending list. Each stream has one sending goroutine, which takes all that is
// pending and sends it in as few responses as the size bound allows. Publish never waits for a client.
//
// A watcher whose pending list is full drops it and is *lagging*: the sending goroutine reads on from the ring, in
// bounded turns. A watcher that needs commits older than the ring waits for the sweep: one goroutine that reads pages of
// history from the Source and serves every waiting watcher with each page. When a lagging watcher has seen all there is,
// it joins the synced ones under the hub's lock, in which no commit can be published: no gap, no duplicate.
//
// A Source may be unable to answer for a while (ErrNotNow). The sweep, and the streams that need a previous value, wait then and
// ask again.
//
// Follow is for another node's copy of the keyspace: all commits in order, whole. A follower is a position and nothing else: its
// goroutine reads on from the ring, or from the Source where the ring has forgotten, and sleeps until the next Publish.
//
// # What is exact
//
// Responses, their order, reasons and header revisions are etcd's (server/etcdserver/api/v3rpc/watch.go and
// server/storage/mvcc/watchable_store.go), but for these, which a client can't tell from another timing of etcd or is
// better off with:
//   - what is pending for a watcher is sent in one response; events of one revision are never in two, unless fragments
//     are asked for;
//   - progress asked for while a watcher lags is answered, once, when it has caught up; etcd says nothing;
//   - a watch that ended by compaction and was not yet canceled by its client does not keep the stream's progress back;
//   - events that were on their way when their watch was canceled are not kept for the next watch with that ID;
//   - a previous value that is in memory is sent even if its revision is compacted;
//   - a message that can't be sent, or history that can't be read for another reason than ErrNotNow, ends the stream with an
//     error.
//
// # Locks
//
// Hub.mu comes before stream.mu. Neither is held while anything is sent or read from the Source.
package watch
