package lab

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kineshim/integration/cluster"
)

func TestVIPWatchFindsAddressesThatStay(t *testing.T) {
	there := []netlink.Addr{{IPNet: &net.IPNet{IP: VIPs[0].AsSlice()}}}
	for name, c := range map[string]struct {
		gate, on [2]float64 // seconds
		found    string
	}{
		"while the gate is open":            {[2]float64{1, 10}, [2]float64{1, 10}, ""},
		"until the lease ends":              {[2]float64{1, 10}, [2]float64{1, 13.9}, ""},
		"longer than the lease":             {[2]float64{1, 10}, [2]float64{1, 15.8}, "for longer than the lease"},
		"long before the gate opens":        {[2]float64{5, 10}, [2]float64{1, 10}, "for longer than the lease"},
		"a moment before the gate was seen": {[2]float64{2, 10}, [2]float64{1.5, 10}, ""},
		"a moment, long afterwards":         {[2]float64{1, 10}, [2]float64{20, 20.3}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, began := newVIPWatch(), time.Now()
			for tick := range 300 {
				at := float64(tick) / 10
				now := began.Add(time.Duration(tick) * 100 * time.Millisecond)
				in := func(s [2]float64) bool { return s[0] <= at && at <= s[1] }
				w.gate(cluster.A, now, now, in(c.gate))
				if in(c.on) {
					w.saw(cluster.A, now, there)
				} else {
					w.saw(cluster.A, now, nil)
				}
			}
			found := strings.Join(w.check(), "; ")
			if c.found == "" && found != "" || !strings.Contains(found, c.found) {
				t.Errorf("found %q, want %q", found, c.found)
			}
		})
	}
}

func TestVIPWatchThatSeesNothingSaysSo(t *testing.T) {
	if found := newVIPWatch().check(); len(found) == 0 {
		t.Error("a watch that has seen no address found nothing wrong")
	}
}

func TestVIPWatchSaysWhoHasTheAddresses(t *testing.T) {
	w, now := newVIPWatch(), time.Now()
	there := []netlink.Addr{{IPNet: &net.IPNet{IP: VIPs[0].AsSlice()}}, {IPNet: &net.IPNet{IP: VIPs[1].AsSlice()}}}
	w.saw(cluster.A, now, there)
	w.saw(cluster.B, now, nil)
	if got, amiss := w.holders(now), w.amiss(cluster.A); got != cluster.A || amiss != "" {
		t.Errorf("holders %q; %s", got, amiss)
	}
	w.saw(cluster.B, now, there[:1])
	if got, amiss := w.holders(now), w.amiss(cluster.A); got != "ab/a" || amiss == "" {
		t.Errorf("holders %q; %q", got, amiss)
	}
	w.saw(cluster.A, now.Add(time.Second), nil)
	if got := w.holders(now.Add(2 * time.Second)); got != "b/-" {
		t.Errorf("holders %q", got)
	}
}
