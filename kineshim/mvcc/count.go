package mvcc

// liveChunks bounds the log of recent creations and deletions to 64k entries, 2 MB: minutes of a busy cluster, and longer
// than a paged list takes.
const liveChunks = 64

// liveChange is a creation (change 1) or a deletion (change -1).
type liveChange struct {
	key    string
	mod    int64
	change int
}

// liveLog is the newest creations and deletions.
type liveLog struct {
	log journal[liveChange]
	// dropped is the revision of the newest entry that is gone. For a revision before it the log is not complete.
	dropped int64
}

func (l *liveLog) append(c liveChange) {
	l.log.append(c)
	if len(l.log.chunks) > liveChunks {
		oldest := l.log.chunks[0]
		l.dropped = oldest[len(oldest)-1].mod
		l.log.drop(1)
	}
}

// recent is what happened after a revision.
type recent [liveChunks][]liveChange

// since fills in the changes after revision at and returns how many they are; ok is false if the log does not reach back.
// What it filled in may be read without the lock.
func (l *liveLog) since(at int64, dst *recent) (n int, ok bool) {
	if at < l.dropped {
		return 0, false
	}
	c, i := l.log.search(func(e *liveChange) bool { return e.mod > at })
	for k, chunk := range l.log.chunks[c:] {
		dst[k] = chunk[i:]
		n += len(dst[k])
		i = 0
	}
	return n, true
}

// Count returns how many keys of the span live at revision at. Near the head it takes the same short time whatever the span
// holds. At an older revision it takes time for each key that was created or deleted since, or, if that is less or too long
// ago, for each key of the span.
func (x *Index) Count(s Span, at int64) int64 {
	if s.Empty() {
		return 0
	}
	if key, ok := s.Single(); ok {
		if _, ok := x.Get(key, at); ok {
			return 1
		}
		return 0
	}
	x.mu.RLock()
	head := x.tree.within(s)
	if at >= x.headRev {
		x.mu.RUnlock()
		return int64(head.live)
	}
	var changes recent
	n, ok := x.lives.since(at, &changes)
	x.mu.RUnlock()
	if !ok || n > head.keys+journalChunk { // to look at an entry of the log costs as much as to look at a key
		return x.scanCount(s, at)
	}
	live := head.live
	for _, chunk := range changes {
		for i := range chunk {
			if s.Contains(chunk[i].key) {
				live -= chunk[i].change
			}
		}
	}
	return int64(live)
}

// scanCount is Count by looking at every key.
func (x *Index) scanCount(s Span, at int64) int64 {
	var n int64
	x.Ascend(s, at, func(Item) bool {
		n++
		return true
	})
	return n
}
