package main

import (
	"fmt"
	"net"
	"time"

	"kineshim/config"
	"kineshim/monitor"
	"kineshim/raftwitness"
	"kineshim/version"
)

// voters are the witness's voters, for monitoring. They are complete before it begins.
type voters struct {
	node    string
	started time.Time
	// listener is what all of them share.
	listener *raftwitness.Listener
	all      []voter
}

// voter is one of them; node is nil if it could not be opened, and err says why.
type voter struct {
	cluster string
	node    *raftwitness.Node
	err     error
}

// health is asked for each answer.
func (v *voters) health() monitor.Witness {
	w := monitor.Witness{Node: v.node, Version: version.Version, Started: v.started, Certificates: map[string]monitor.Certificate{}}
	_, w.Refused = v.listener.Greeting()
	for _, one := range v.all {
		w.Voters = append(w.Voters, one.health())
		if one.node != nil {
			own := one.node.Certificates()[one.node.Identity().Name]
			w.Certificates[one.cluster] = monitor.Certificate{Begins: own.NotBefore, Ends: own.NotAfter}
		}
	}
	return w
}

func (v voter) health() monitor.WitnessVoter {
	h := monitor.WitnessVoter{Cluster: v.cluster}
	if v.err != nil {
		h.Broken = v.err.Error()
		return h
	}
	s := v.node.Status()
	rec, applied := v.node.Record()
	h.Broken, h.Leader, h.Leads, h.LeaderHeard, h.Term, h.Apart = s.Void, s.LeaderName, s.Leader, s.LeaderHeard, s.Term, len(s.Apart)
	h.CommitIndex, h.AppliedIndex = s.CommitIndex, applied
	h.Epoch, h.Primary, h.Mode, h.Paused = rec.Epoch, rec.Primary, rec.Mode(), rec.Paused
	return h
}

// listenHTTP opens the port for monitoring; nil if none is wanted.
func listenHTTP(cfg config.Witness) (net.Listener, error) {
	if cfg.HTTPListen == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", cfg.HTTPListen)
	if err != nil {
		return nil, fmt.Errorf("http_listen: %w", err)
	}
	return ln, nil
}
