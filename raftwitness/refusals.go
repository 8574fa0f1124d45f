package raftwitness

import (
	"log/slog"
	"net"
	"time"

	"kineshim/quiet"
	"kineshim/turnstile"
)

const (
	// maxGreeting bounds the connections that are still in their hello: a TLS handshake each, about 50 KB.
	maxGreeting = 256
	// maxGreetingOfOne bounds those from one address, so that a stranger at another one does not keep the voters from one another. A voter makes a handful at a
	// time to another; there may be several clusters behind one address.
	maxGreetingOfOne = 32
	// reasonMax bounds what is logged of a refusal: a stranger's own words may be in it.
	reasonMax = 300
	// acceptAgain is the pause after a failure to accept: out of descriptors, as a rule.
	acceptAgain = 50 * time.Millisecond
)

// refusals tells the operator who was refused, and why, and not each time: anybody on the network can be refused as often as he likes.
type refusals struct {
	log  *slog.Logger
	said *quiet.Repeats
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{log: log, said: quiet.New(quiet.Often)}
}

// refused is called with the address that was.
func (r *refusals) refused(from net.Addr, err error) {
	why := err.Error()
	why = why[:min(len(why), reasonMax)]
	line := r.happened(turnstile.Source(from), why)
	if !line.Say {
		return
	}
	address := from.String()
	if line.Source == quiet.Others {
		address = line.Source
	}
	r.log.Warn("refused Raft connection", "from", address, "error", why, "unsaid", line.Unsaid)
}

// deaf is called when a connection could not be accepted.
func (r *refusals) deaf(err error) {
	if line := r.happened("accept", err.Error()); line.Say {
		r.log.Warn("accept Raft connection", "error", err, "unsaid", line.Unsaid)
	}
}

func (r *refusals) happened(source, reason string) quiet.Line {
	return r.said.Happened(time.Now(), source, reason)
}
