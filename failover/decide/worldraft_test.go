package decide

import (
	"slices"

	"kineshim/raftwitness/record"
)

// stepRaft keeps contact, elects, applies.
func (w *world) stepRaft() {
	r := &w.raft
	if l := r.leader; l != "" {
		lost := !w.isUp(l)
		last := r.since
		for _, v := range []string{"a", "b", "w"} {
			if v != l && w.linked(l, v) {
				r.heard[v], r.contact[v] = w.now, w.now
			}
			if v != l {
				last = max(last, r.contact[v])
			}
		}
		if lost || w.now-last >= promise {
			r.leader = ""
		}
	}
	if r.leader == "" {
		w.elect()
	} else if !r.barrier && w.majority(r.leader) {
		if c := w.limbo; c != nil {
			w.limbo = nil
			w.commit(*c)
		}
		r.barrier = true
	}
	if r.leader == "w" && r.barrier && w.now-r.since > 2 {
		for _, to := range []string{w.record.Primary, "a", "b"} {
			if to != "" && w.linked("w", to) {
				w.handOver(to)
				break
			}
		}
	}
	for _, h := range w.hosts {
		if l := r.leader; w.isUp(h.name) && l != "" && r.barrier && w.majority(l) && (l == h.name || w.linked(l, h.name)) {
			h.memory.record = w.record
		}
		if r.leader == h.name && r.barrier {
			h.confirmed = true
		}
	}
}

func (w *world) majority(leader string) bool {
	return slices.ContainsFunc([]string{"a", "b", "w"}, func(v string) bool { return v != leader && w.linked(leader, v) })
}

func (w *world) elect() {
	voters := []string{"a", "b", "w"}
	x, y := voters[w.rng.IntN(3)], voters[w.rng.IntN(3)]
	if x != y && w.linked(x, y) && w.now-w.raft.heard[x] > promise && w.now-w.raft.heard[y] > promise {
		w.lead(x)
	}
}

func (w *world) lead(node string) {
	r := &w.raft
	r.leader, r.barrier, r.forfeited, r.since, r.contact = node, false, false, w.now, map[string]int{}
	w.say("%s leads", node)
}

func (w *world) handOver(to string) {
	w.raft.forfeited = true
	if w.linked(w.raft.leader, to) && w.rng.IntN(8) > 0 {
		w.lead(to)
	}
}

func (w *world) commit(c record.Command) error {
	next, err := w.record.Apply(c)
	if err != nil {
		return err
	}
	w.record = next
	w.say("committed: %s %s by %s: %s", c.Kind, c.Node, c.By, c.Why)
	if c.Kind == record.Force { // the operator was shown what it loses
		kept := w.hosts[c.Node].ids()
		w.acked = slices.DeleteFunc(w.acked, func(id int) bool { return !slices.Contains(kept, id) })
	}
	return nil
}

func (h *host) leads() bool { return h.w.raft.leader == h.name && h.w.raft.barrier }

func (h *host) lease() bool {
	r := &h.w.raft
	if !h.leads() || r.forfeited {
		return false
	}
	for _, at := range r.contact {
		if h.w.now-at < leaseTime {
			return true
		}
	}
	return false
}
