// Package postgres owns one PostgreSQL data directory and the server that runs on it, and offers the effects that a
// failover is made of: start as standby, follow, freeze, promote, gate, stop, clone, rewind.
//
// It takes no decision: the caller orders the verbs, and no verb acts on its own later on. What a verb promises holds when
// it returns nil. An error means not done, except ErrUnknownOutcome.
//
// # What it assumes
//
//   - One kineshim process owns the data directory. Processes that an earlier, dead one left behind are killed before a start.
//   - PostgreSQL is version 14 to 18, made by InitDB or Clone: data checksums on, the role names of this package.
//   - DataDir, DataDir.new and DataDir.old are on one file system, which keeps what fsync has acknowledged.
//
// # Who reaches it
//
// PostgreSQL listens on its socket only. Whoever could reach it over a network could take all its connections by opening them and saying nothing: it counts those
// that have not said who they are, too, and then refuses this package's own. The caller passes the peer's connections on to the socket.
//
// # What a crash leaves behind
//
//   - PostgreSQL dies with this process: the postmaster gets SIGQUIT from the kernel when the thread that forked it ends.
//   - data.json says whether DataDir is whole. It says no from before the first destructive step until after the last one.
//   - promotion.json says which epoch began the timeline that the data directory is on.
//   - DataDir.new and DataDir.old are leftovers of a clone; the next one removes them.
//
// # Why commits cannot slip through
//
// synchronous_standby_names is a constant on the postmaster's command line, so that neither a reload nor ALTER SYSTEM
// changes it: a commit waits until the standby or kineshim itself (ConnectSolo) has acknowledged it. To stop acknowledging
// alone, kineshim disconnects: that needs no reload, and a reload is what would leave a window in which the checkpointer has
// not published the new names yet. A waiting commit is never cancelled, because PostgreSQL would make it visible: every
// session of this package is unable to send a cancel request, and a primary is only ever stopped by an immediate shutdown.
package postgres
