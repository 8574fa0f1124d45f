package doctor

import (
	"fmt"
	"slices"
	"time"
)

const tripsCheck = "round trips"

// bears is the longest round trip that the heartbeat timeout bears.
//
// A primary that is paired answers by a lease, which lasts 70 % of the timeout from when the heartbeat was sent that a voter has answered
// (raftwitness, leasePerMille). The next heartbeat is sent at most 20 % of the timeout after that answer (hashicorp/raft: one to two tenths), and must be
// answered before the lease ends: trip + 20 % + trip < 70 %. So two trips must fit into a half of it, and one into a quarter. Longer ones close the gate
// again and again though nothing has failed.
func bears(heartbeat time.Duration) time.Duration { return heartbeat / 4 }

// checkTrips judges how long connections took.
func (n *node) checkTrips(all []reached) []Finding {
	f := notes{check: tripsCheck}
	heartbeat := n.cfg.Timing.HeartbeatTimeout
	limit := bears(heartbeat)
	for _, r := range all {
		if len(r.trips) == 0 {
			continue
		}
		low, high := slices.Min(r.trips), slices.Max(r.trips)
		said := fmt.Sprintf("%s: %s to %s, in %d connections; timing.heartbeat_timeout %v bears %s",
			r.member.name, short(low), short(high), len(r.trips), heartbeat, short(limit))
		if high <= limit {
			f.ok("%s", said)
			continue
		}
		f.warn(n.slower(high), "%s: a primary may answer for 70 %% of it after a heartbeat was sent, the next one is sent at most 20 %% of it later, "+
			"and two round trips must fit into the rest; with longer ones it loses its role though nothing has failed", said)
	}
	return f.all
}

// slower is what to do about round trips that are too long for the timeout.
func (n *node) slower(trip time.Duration) string {
	const grain = 100 * time.Millisecond
	// Half as much again, for a busy machine and for packets that are lost.
	enough := (4*trip*3/2 + grain - 1) / grain * grain
	first := "find what delays it: ping, ethtool, what else the link carries"
	if n.enrolment.id == nil {
		return fmt.Sprintf("%s\nor, on both data nodes, before kineshim init: timing: {heartbeat_timeout: %v}, with which a failover takes longer", first, enough)
	}
	return fmt.Sprintf("%s\nthe timeout is that of the whole cluster, and fixed when it is founded: with these round trips a new cluster would need %v", first, enough)
}

// short is a duration with as many digits as mean something.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
