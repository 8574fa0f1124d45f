package failover

import (
	"time"

	"kineshim/raftwitness/record"
)

// lagMark measures for how long one side has been behind the other: a position that one had, when that was known, and that the other has yet to
// reach. The zero lagMark is not behind.
type lagMark struct {
	lsn record.LSN
	at  time.Time
}

// note takes in how far both are. While the other is behind the mark, the mark stays; once it has reached it, the next one is set if it is behind
// again. So the lag is right to the pace of the looks.
func (m *lagMark) note(ahead, behind record.LSN, now time.Time) {
	switch {
	case behind >= ahead:
		*m = lagMark{}
	case behind >= m.lsn:
		*m = lagMark{ahead, now}
	}
}

// behind is for how long the other has been behind, by now.
func (m *lagMark) behind(reached record.LSN, now time.Time) time.Duration {
	if m.at.IsZero() || reached >= m.lsn {
		return 0
	}
	return now.Sub(m.at)
}
