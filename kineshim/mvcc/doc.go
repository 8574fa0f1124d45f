// Package mvcc is the index of the keyspace in memory: for every key its revisions, with row ID, create revision, version
// and lease, but without values. It is pure: no I/O, no goroutine, no clock.
//
// # Numbers
//
// Every change is one row of the table. Rows have IDs, strictly ascending; changes have revisions (Mod), ascending, and all
// changes of one transaction share one. What is seen at a revision is a key's last change in it: etcd refuses most
// transactions that change a key twice, but not all. Clients know revisions only; the table is read by row ID; the Index
// maps between the two (Item.ID, LastID).
//
// # Who may call what
//
// One writer at a time appends: the loader at first, then an engine's sequencer, or who follows one. It appends changes before
// they are durable, so the head is ahead of what clients may see. Head, AscendHead, HeadRevision and HeadID look at the head
// and are meant for the writer. Everybody else asks "at" a revision that lies between the compacted and the committed one,
// and gets the same answer however often it asks and whatever is appended meanwhile. Rollback takes back changes that did not
// become durable, which are all after the committed revision.
//
// All methods may be called from any goroutine at any time, except that Append, Advance and Rollback need a single writer. One
// RWMutex guards the Index. It is never held while a caller's function runs, and never for longer than a bounded number of keys
// takes: a long Ascend, Garbage, Prune or Rollback lets go of it in between.
//
// # Compaction
//
// A row is garbage at a revision when no read at that revision or later needs it, nor a watch that starts there. The garbage
// of a key is always its oldest rows: those before the revision that a newer row at or before it has replaced, and
// tombstones before it. The engine compacts in this order:
//
//  1. It makes the compacted revision durable and visible, so that no new read below it begins, and waits for older
//     reads that need the rows.
//  2. Garbage(rev) lists the rows, ascending by ID, and the engine deletes them from the table in this order, so that a
//     key's older rows go before its tombstone. A crash in between leaves rows that are garbage again at the next load.
//  3. Prune forgets what has been deleted. Compacted(rev) forgets the row IDs of revisions below rev-1.
//
// Prune must not run ahead of reads that are still under way at an older revision; the Index does not know of them.
//
// # Structure
//
// A B+tree, 64 keys to a leaf. A leaf holds for each key its newest change inline, and a pointer to the older ones if there
// are any. Inner nodes count the keys, and the keys that live at the head, below each child; a mask in each leaf says which
// of its keys live. So the number of live keys in any span is two descents, however many there are. Count at an older
// revision starts from that number and takes back what a bounded log of recent creations and deletions says has happened
// since.
//
// A million keys of 60 bytes with one revision each take about 150 MB of heap, of which 64 MB are the keys themselves; an
// older revision takes 50 to 70 bytes.
package mvcc
