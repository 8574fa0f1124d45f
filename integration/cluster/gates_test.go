package cluster

import (
	"testing"
	"time"
)

func TestGateWatchFindsTwoPrimaries(t *testing.T) {
	base := time.Now()
	seen := func(node string, epoch uint64, from, to int) gateSeen {
		at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
		return gateSeen{node, epoch, at(from), at(to)}
	}
	for _, tt := range []struct {
		name string
		open []gateSeen
		bad  bool
	}{
		{"one after the other", []gateSeen{seen(A, 1, 0, 5), seen(A, 1, 20, 25), seen(B, 2, 100, 105), seen(A, 3, 200, 205)}, false},
		{"answers that overlap prove nothing", []gateSeen{seen(A, 1, 0, 110), seen(B, 2, 100, 105)}, false},
		{"the same, heard in the other order", []gateSeen{seen(B, 2, 100, 105), seen(A, 1, 0, 110)}, false},
		{"both in one epoch", []gateSeen{seen(A, 1, 0, 5), seen(B, 1, 100, 105)}, true},
		{"the old one goes on", []gateSeen{seen(A, 1, 0, 5), seen(B, 2, 100, 105), seen(A, 1, 106, 110)}, true},
		{"the old one goes on, heard late", []gateSeen{seen(A, 1, 0, 5), seen(A, 1, 106, 110), seen(B, 2, 100, 105)}, true},
		{"seen often in between", []gateSeen{seen(B, 2, 100, 105), seen(B, 2, 120, 125), seen(B, 2, 140, 145), seen(A, 1, 130, 150)}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &GateWatch{epochs: map[uint64]string{}}
			for _, s := range tt.open {
				g.observe(s, true)
			}
			if found := len(g.found) > 0; found != tt.bad {
				t.Errorf("found %v", g.found)
			}
		})
	}
}
