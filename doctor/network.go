package doctor

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"kineshim/raftwitness"
)

// Network reaches the other members.
type Network interface {
	// Dial makes a TCP connection.
	Dial(ctx context.Context, address string) (net.Conn, error)
	// Ask is raftwitness.Ask, in this node's name; it closes the connection.
	Ask(ctx context.Context, c net.Conn, e Asker) (raftwitness.Answer, error)
}

// Asker is in whose name Ask is called, and whom it expects.
type Asker struct {
	enrolment
	to string
}

const (
	// dialBound is how long a connection may take: a machine that lives and a network that bears a cluster answer in milliseconds, and the kernel asks a
	// second time after one second.
	dialBound = 2 * time.Second
	// askBound is how long the handshake and the answer may take; a Raspberry Pi signs in milliseconds.
	askBound = 2 * time.Second
	// connects is how often a Raft port is connected to, to see by how much round trips differ. The first one does not count: it waits for the name and for
	// the neighbour's hardware address to be found.
	connects = 6
)

// reached is what came of the attempts to reach a member.
type reached struct {
	member member
	// dials are by the port's key: nil where the port was reached.
	dials map[string]error
	// trips are how long connections to the Raft port took.
	trips []time.Duration
	// answer and askErr are of who was asked at the Raft port, if anybody was.
	asked  bool
	answer raftwitness.Answer
	askErr error
}

// reachAll tries all ports of the others, side by side.
func (n *node) reachAll(ctx context.Context, network Network) []reached {
	all := make([]reached, len(n.others))
	var members sync.WaitGroup
	for i, m := range n.others {
		members.Go(func() { all[i] = n.reach(ctx, network, m) })
	}
	members.Wait()
	return all
}

func (n *node) reach(ctx context.Context, network Network, m member) reached {
	r := reached{member: m, dials: map[string]error{}}
	var mu sync.Mutex // guards r.dials
	var ports sync.WaitGroup
	for _, p := range m.ports() {
		ports.Go(func() {
			var err error
			if p.key == "raft" {
				err = n.reachRaft(ctx, network, &r) // nobody else writes to the rest of r
			} else {
				var c net.Conn
				if c, _, err = dial(ctx, network, p.address); err == nil {
					c.Close()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			r.dials[p.key] = err
		})
	}
	ports.Wait()
	return r
}

// reachRaft connects several times, and each time asks who answers: a voter logs a warning of whoever connects and says nothing. So without
// certificates there is one connection only.
func (n *node) reachRaft(ctx context.Context, network Network, r *reached) error {
	address := r.member.raft
	for i := range connects {
		c, took, err := dial(ctx, network, address)
		if err != nil {
			return err
		}
		if n.enrolment.credentials == nil {
			r.trips = append(r.trips, took)
			c.Close()
			return nil
		}
		if i > 0 {
			r.trips = append(r.trips, took)
		}
		if at, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			address = at.String()
		}
		r.asked = true
		bounded, cancel := context.WithTimeout(ctx, askBound)
		r.answer, r.askErr = network.Ask(bounded, c, Asker{n.enrolment, r.member.server})
		cancel()
		if r.askErr != nil {
			return nil
		}
	}
	return nil
}

// dial connects and says how long it took, which is one round trip.
func dial(ctx context.Context, network Network, address string) (net.Conn, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	began := time.Now()
	c, err := network.Dial(ctx, address)
	return c, time.Since(began), err
}
