package failover

import (
	"testing"
	"time"

	"kineshim/raftwitness/record"
)

// Looks at a primary that writes all the time come between: the standby is behind at each of them, by what was written since the last word.
func TestAStandbyThatKeepsUpHasNoGrowingLag(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	var m lagMark
	for i := range 100 {
		ahead, behind := record.LSN(1000+10*i), record.LSN(1000+10*(i-1))
		m.note(ahead, behind, at(100*i))
		if d := m.behind(behind, at(100*i)); d > 100*time.Millisecond {
			t.Fatalf("look %d: behind for %v", i, d)
		}
	}
}

func TestAStandbyThatStopsIsBehindForLonger(t *testing.T) {
	start := time.Unix(1000, 0)
	var m lagMark
	m.note(1000, 1000, start)
	if d := m.behind(1000, start.Add(time.Hour)); d != 0 {
		t.Errorf("nothing is lacking, for %v", d)
	}
	for i := 1; i <= 50; i++ {
		m.note(record.LSN(1000+i), 1000, start.Add(time.Duration(i)*time.Second))
	}
	if d := m.behind(1000, start.Add(50*time.Second)); d != 49*time.Second {
		t.Errorf("behind for %v, since the second after the start", d)
	}
	if d := m.behind(1001, start.Add(50*time.Second)); d != 0 {
		t.Errorf("it has what was there at the mark: %v", d)
	}
}
