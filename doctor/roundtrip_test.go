package doctor

import (
	"errors"
	"testing"
	"time"

	"kineshim/raftwitness"
)

func TestRoundTripsMustFitTheHeartbeatTimeout(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		more  string
		trips []time.Duration
		want  string
	}{
		"near":                     {"", []time.Duration{300 * time.Microsecond, 2 * ms}, "ok b: 0.30 ms to 2.0 ms, in 2 connections; timing.heartbeat_timeout 500ms bears 125.0 ms"},
		"as far as may be":         {"", []time.Duration{125 * ms}, "ok b: "},
		"too far":                  {"", []time.Duration{ms, 126 * ms}, "warn two round trips must fit // heartbeat_timeout: 800ms}"},
		"near enough for a second": {"timing: {heartbeat_timeout: 1s}", []time.Duration{126 * ms}, "ok b: "},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, tc.more)
			expect(t, n.checkTrips([]reached{{member: n.member(t, "b"), trips: tc.trips}, {member: n.member(t, "w")}}), tc.want)
		})
	}
	n, _, _ := enrolledNode(t, time.Hour)
	expect(t, n.checkTrips([]reached{{member: n.member(t, "b"), trips: []time.Duration{time.Second}}}), "warn two round trips // a new cluster would need 6s")
}

type fakeClock struct {
	yes bool
	err error
}

func (c fakeClock) Synchronised() (bool, time.Duration, error) {
	return c.yes, 12 * time.Millisecond, c.err
}

func TestClocksThatAreWrongAreTold(t *testing.T) {
	n := newNode(t)
	at := func(ahead, took time.Duration) []reached {
		return []reached{{member: n.member(t, "b"), asked: true, answer: raftwitness.Answer{Asked: noon, Answered: noon.Add(took), Clock: noon.Add(took/2 + ahead)}}}
	}
	const synchronised = "ok this machine's clock is synchronised, to within 12.0 ms"
	good := fakeClock{yes: true}
	for name, tc := range map[string]struct {
		clock fakeClock
		all   []reached
		want  []string
	}{
		"the same":         {good, at(3*time.Millisecond, 2*time.Millisecond), []string{synchronised, "ok the clock of b is 3.0 ms ahead of this one (within 1.0 ms)"}},
		"behind":           {good, at(-7*time.Second, time.Millisecond), []string{synchronised, "warn the clock of b is 7.0 s behind this one // timedatectl, here and on b"}},
		"ahead":            {good, at(6*time.Second, time.Millisecond), []string{synchronised, "warn depends on no clock // timedatectl"}},
		"not to be told":   {good, at(6*time.Second, 3*time.Second), []string{synchronised, "ok the clock of b is 6.0 s ahead"}},
		"an older version": {good, []reached{{member: n.member(t, "w"), asked: true}}, []string{synchronised, "ok w does not say what time it has"}},
		"nobody answered":  {good, []reached{{member: n.member(t, "w"), asked: true, askErr: errors.New("no")}, {}}, []string{synchronised}},
		"nothing keeps it": {fakeClock{}, nil, []string{"warn the kernel calls it unsynchronised // timedatectl set-ntp true"}},
		"not known":        {fakeClock{err: errors.New("no")}, nil, []string{"warn the kernel does not say // timedatectl"}},
	} {
		t.Run(name, func(t *testing.T) { expect(t, n.checkClocks(tc.clock, tc.all), tc.want...) })
	}
}

func TestTheKernelSaysWhetherItsClockIsSynchronised(t *testing.T) {
	if _, _, err := (kernelClock{}).Synchronised(); err != nil {
		t.Error(err)
	}
}
