package raftwitness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

// peers are the voters of the cluster as the record names them, this one among them; before there is a record, as they were at enrolment. After a start
// those come too whom the log names and the record does not yet: see unapplied.
func (n *Node) peers() []Peer {
	r, _ := n.Record()
	var ps []Peer
	if !r.Initialised() {
		ps = n.cfg.Identity.voters()
	}
	for _, m := range r.Voters() {
		ps = append(ps, n.peer(m))
	}
	for _, m := range n.unapplied() {
		known := slices.ContainsFunc(ps, func(p Peer) bool { return p.ServerID == m.ServerID })
		if !known && !n.replaced(m.ServerID) {
			ps = append(ps, n.peer(m))
		}
	}
	return ps
}

// unapplied are the voters that the newest record in the log names, from the start of Raft until it has applied what the log held then. Raft applies nothing
// before somebody leads, and nobody leads unless voters speak with those that were enrolled lately: its own configuration already counts them. To be spoken
// with is all that they get by it: whose vote counts, Raft knows. If the entry was never committed, nobody has ever had that identity.
func (n *Node) unapplied() []record.Member {
	r := n.newest.Load()
	if r == nil || n.raft.AppliedIndex() >= n.fsm.replayTo {
		return nil
	}
	return r.Voters()
}

func (n *Node) peer(m record.Member) Peer {
	p := Peer{Member: m}
	if as := n.addresses(m); len(as) > 0 {
		p.Raft = as[0]
	}
	return p
}

// voterOf returns the voter with the server ID.
func (n *Node) voterOf(serverID string) (Peer, bool) {
	return find(n.peers(), func(p Peer) bool { return p.ServerID == serverID })
}

func (n *Node) peerByName(name string) (Peer, bool) {
	return find(n.peers(), func(p Peer) bool { return p.Name == name })
}

func find(ps []Peer, is func(Peer) bool) (Peer, bool) {
	i := slices.IndexFunc(ps, is)
	if i < 0 {
		return Peer{}, false
	}
	return ps[i], true
}

// others are the server IDs of the other voters.
func (n *Node) others() []raft.ServerID {
	var ids []raft.ServerID
	for _, p := range n.peers() {
		if p.ServerID != n.cfg.Identity.ServerID {
			ids = append(ids, raft.ServerID(p.ServerID))
		}
	}
	return ids
}

// addresses are where the member may be: where an operator has said in the record, where this node is configured to look, where it was at
// this voter's enrolment. Whoever answers has to say that it is the member, so a wrong one does no harm.
func (n *Node) addresses(m record.Member) []string {
	configured := ""
	if n.cfg.Address != nil {
		configured = n.cfg.Address(m.Name)
	}
	enrolled, _ := n.cfg.Identity.PeerByName(m.Name)
	var as []string
	for _, a := range []string{m.Address, configured, enrolled.Raft} {
		if a != "" && !slices.Contains(as, a) {
			as = append(as, a)
		}
	}
	return as
}

// address resolves a server ID, of a voter: to the address that has worked last, and else to each in turn.
func (n *Node) address(serverID string) (string, bool) {
	p, ok := n.voterOf(serverID)
	if !ok {
		return "", false
	}
	return n.addressOf(p.Member)
}

func (n *Node) addressOf(m record.Member) (string, bool) {
	as := n.addresses(m)
	if len(as) == 0 {
		return "", false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return as[n.route[m.Name]%len(as)], true
}

// missed has the member's next address tried.
func (n *Node) missed(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.route[name]++
}

// dial is Config.Dial; a failure turns to the member's next address.
func (n *Node) dial(address string, timeout time.Duration) (net.Conn, error) {
	if err := n.mayCall(); err != nil {
		return nil, err
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		n.cfg.Listener.greeting.Know(host)
	}
	c, err := n.cfg.Dial(address, timeout)
	if err == nil {
		return c, nil
	}
	r, _ := n.Record()
	for _, m := range r.Members {
		if as := n.addresses(m); len(as) > 1 && slices.Contains(as, address) {
			n.missed(m.Name)
		}
	}
	return nil, err
}

// recordChanged is called with each change of the record.
func (n *Node) recordChanged() {
	if n.group != nil && n.ready.Load() {
		n.group.cut(n.replaced)
		n.lease.forget(n.replaced)
	}
	n.checkSelf()
	n.wake()
}

// checkSelf makes this voter void if its own record says so: it may have agreed to it.
func (n *Node) checkSelf() {
	if !n.ready.Load() {
		return
	}
	if r := (*refusal)(nil); errors.As(n.refuseStranger(n.cfg.Identity.ServerID), &r) {
		n.setVoid(r.breach, r.why, n.cfg.Identity.ServerID)
	}
}

// replaced: the record says that the server is void. Of a stranger it says nothing: the stranger's record may be newer.
func (n *Node) replaced(server string) bool {
	var r *refusal
	return errors.As(n.refuseStranger(server), &r)
}

const (
	// meetFirst and meetMax are the pauses between attempts to make oneself known to a voter that does not answer.
	meetFirst, meetMax = 200 * time.Millisecond, 5 * time.Second
	// meetAgain is the pause of a voter that has no vote yet.
	meetAgain = time.Second
	// meetTimeout bounds one attempt.
	meetTimeout = time.Second
)

// meetAll makes this voter known to each of the others, once in its life, until ctx ends: the data nodes and the witness would else meet
// only when one of them campaigns, perhaps first when the third one, which knew them, is lost. Members that were given up are told so.
func (n *Node) meetAll(ctx context.Context) {
	met := map[string]bool{}
	changes, stop := n.Changes()
	defer stop()
	pause := meetFirst
	for ctx.Err() == nil {
		var again <-chan time.Time
		if n.memory.void() == nil && !n.meetEach(met) {
			if !n.isMember() {
				pause = meetAgain // the leader waits for it
			}
			again, pause = time.After(pause), min(2*pause, meetMax)
		}
		select {
		case <-ctx.Done():
		case <-again:
		case <-changes:
			n.pauseFor(ctx, meetFirst)
		}
	}
}

// meetEach reports whether all are met.
func (n *Node) meetEach(met map[string]bool) bool {
	all := true
	r, _ := n.Record()
	for _, p := range n.peers() {
		if p.ServerID == n.cfg.Identity.ServerID || met[p.ServerID] && n.isMember() {
			continue
		}
		if _, err := n.meet(p.Member, hello{Meet: true}); err != nil {
			n.cfg.Log.Debug("make this voter known", "to", p.ServerID, "error", err)
			all = false
			continue
		}
		met[p.ServerID] = true
		all = all && n.isMember()
	}
	for _, m := range r.Members {
		if !m.Lost || met[m.ServerID] {
			continue
		}
		if _, err := n.meet(m, hello{Void: lostBecause(r)}); err != nil {
			all = false
			continue
		}
		met[m.ServerID] = true
		n.cfg.Log.Warn("a member that was given up has been told so", "server", m.ServerID)
	}
	return all
}

// meet says the hello, after which nothing follows, to the member, and returns its answer.
func (n *Node) meet(m record.Member, h hello) (helloReply, error) {
	address, ok := n.addressOf(m)
	if !ok {
		return helloReply{}, fmt.Errorf("no address of %s", m.Name)
	}
	c, err := n.dial(address, meetTimeout)
	if err != nil {
		return helloReply{}, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(helloTimeout))
	return n.group.introduce(c, m.ServerID, address, h)
}

// isMember: this voter stands in the newest Raft configuration that it knows.
func (n *Node) isMember() bool {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	return slices.ContainsFunc(f.Configuration().Servers, func(s raft.Server) bool { return string(s.ID) == n.cfg.Identity.ServerID })
}

// pauseFor waits until d has passed or ctx has ended.
func (n *Node) pauseFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
