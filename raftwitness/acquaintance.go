package raftwitness

import (
	"errors"
	"fmt"
	"time"

	"kineshim/raftwitness/record"
)

// acquaintance judges other voters by what they say in a hello; see lives.go. Its methods may be called at any time by anybody.
type acquaintance interface {
	// claim is what this voter says of itself.
	claim() claim
	// admit returns nil if the caller may go on.
	admit(hello) error
	// met judges the answer of the server that was called; it returns nil if the connection may be used.
	met(server string, r helloReply) error
	// refusedBy notes that the server refuses this voter, or is void, with its answer.
	refusedBy(server string, r helloReply)
	// mayCall returns nil if this voter may speak to others.
	mayCall() error
}

// refusal is a refusal for good.
type refusal struct {
	breach breach
	why    string
}

func (r *refusal) Error() string { return r.why }

// refused is a voter with which no word is exchanged.
type refused struct {
	why string
	at  time.Time
}

// errVoid: this voter votes no more.
var errVoid = errors.New("this voter is void")

const (
	// askTimeout bounds the question who answers at an address; a voter that lives answers in a millisecond.
	askTimeout = 500 * time.Millisecond
	// complainEvery is how often one and the same refusal is logged as an error.
	complainEvery = time.Hour
	// refusedFor is how long after its last attempt a voter counts as refused: a leader tries every voter several times a second.
	refusedFor = 10 * time.Second
)

// standing is the history that this voter is in.
func (n *Node) standing() standing {
	r, _ := n.Record()
	if !r.Initialised() {
		return n.cfg.Identity.standing()
	}
	return standing{Generation: r.Generation, GenerationID: r.GenerationID, Incarnation: r.Incarnation, Epoch: r.Epoch}
}

func (n *Node) claim() claim {
	c := claim{standing: n.standing()}
	m := n.memory
	m.mu.Lock()
	c.Log, c.Life, c.Nonce = m.Log, m.Life, m.Nonce
	m.mu.Unlock()
	if n.ready.Load() {
		c.Term, c.Index = n.raft.CurrentTerm(), n.raft.LastIndex()
	} else { // Raft is being started
		c.Term, c.Index = n.startTerm, n.startIndex
	}
	return c
}

func (n *Node) mayCall() error {
	if v := n.memory.void(); v != nil {
		return fmt.Errorf("%w: %s", errVoid, v.Why)
	}
	return nil
}

func (n *Node) admit(h hello) error {
	id, mine := n.cfg.Identity, n.standing()
	m, isVoter := n.voterOf(h.From)
	switch {
	case n.replaced(h.From): // its certificate still says who it was; no word of it counts any more
		return n.refuseStranger(h.From)
	case !isVoter && h.Renew != nil:
		return fmt.Errorf("%q is not a voter of this cluster, as far as is known here: its certificate is not renewed", h.From)
	}
	if h.Ask {
		return nil
	}
	if h.Void != "" {
		// Of this voter's own generation, only what is said to itself counts: the voter before it, at the same address, may be meant. In another
		// one, this voter is the one that was given up, under whatever name.
		if h.Claim.supersedes(mine) && (h.To == id.ServerID || h.Claim.GenerationID != mine.GenerationID) {
			n.setVoid(superseded, h.Void, h.From)
		}
		return nil
	}
	if err := n.mayCall(); err != nil {
		return err
	}
	newer := h.Claim.supersedes(mine) // what it knows of the voters holds
	switch {
	case !isVoter && !newer:
		return n.refuseStranger(h.From)
	case h.To != id.ServerID:
		return fmt.Errorf("you want %q, this is %q: one of the two was enrolled anew", h.To, id.ServerID)
	case h.Promise != id.Promise:
		return fmt.Errorf("your heartbeat timeout is %v, here it is %v: they must be equal", h.Promise, id.Promise)
	case h.Departed > 0: // said by another process, which is no voter
		return nil
	}
	if !isVoter {
		m = Peer{Member: record.Member{Name: h.From}}
	}
	if b, why := n.memory.of(h.From).judge(h.Claim); b != "" {
		return n.refuse(h.From, m.Member, b, why)
	}
	if why := n.duplicate(h); why != "" {
		return n.refuse(h.From, m.Member, duplicated, why)
	}
	b, why, err := n.memory.accept(h.From, h.Claim)
	if b != "" {
		return n.refuse(h.From, m.Member, b, why)
	}
	if err == nil {
		n.mu.Lock()
		n.called[h.From] = time.Now()
		n.mu.Unlock()
	}
	return err
}

// duplicate asks, at the first word of a new life of a voter that is known, who answers at that voter's address: if it is the life that is
// known, the caller is a copy. If nobody answers, the caller is believed; whoever answers there later is then refused.
func (n *Node) duplicate(h hello) string {
	k := n.memory.of(h.From)
	if k.Log == "" || h.Claim.Log == "" || h.Claim.Life <= k.Life {
		return ""
	}
	address, ok := n.address(h.From)
	if !ok {
		return ""
	}
	c, err := n.cfg.Dial(address, askTimeout)
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(askTimeout))
	r, err := n.group.greet(c, hello{Cluster: n.cfg.Identity.ClusterID, From: n.cfg.Identity.ServerID, To: h.From, Promise: n.cfg.Identity.Promise, Ask: true})
	if err != nil || r.Server != h.From || r.Claim.Log != k.Log || r.Claim.Life != k.Life || r.Claim.Nonce != k.Nonce {
		return ""
	}
	return fmt.Sprintf("the voter that answers at %s is in life %d of its log and runs: the caller, in life %d, has a copy of its directory", address, k.Life, h.Claim.Life)
}

func (n *Node) met(server string, r helloReply) error {
	if r.Breach != "" {
		if r.Server == "" || n.replaced(r.Server) { // whoever answers has to say who it is, and a voter that is void has no say
			return nil
		}
		if r.Breach != superseded || !n.standing().supersedes(r.Claim.standing) {
			n.setVoid(r.Breach, r.Error, r.Server)
		}
		return nil
	}
	b, why, err := n.memory.accept(server, r.Claim)
	if b != "" {
		m, _ := n.voterOf(server)
		return n.refuse(server, m.Member, b, why)
	}
	return err
}

// refuseStranger says why the server is no voter.
func (n *Node) refuseStranger(server string) error {
	r, _ := n.Record()
	if x, void := r.ReplacementOf(server); void {
		return &refusal{superseded, fmt.Sprintf("%s was enrolled anew on %s, as %s: the copy %s is void",
			x.Name, time.UnixMilli(x.AtUnixMilli).UTC().Format(time.DateTime), x.By, server)}
	}
	for _, m := range r.Members {
		if m.ServerID == server && m.Lost {
			return &refusal{superseded, lostBecause(r)}
		}
	}
	return fmt.Errorf("%q is not a voter of this cluster", server)
}

// lostBecause is what members are told that were given up.
func lostBecause(r *record.Record) string {
	return fmt.Sprintf("an operator has given this voter up: %s went on alone, as %s, from epoch %d or before", r.Primary, r.GenerationID, r.Epoch)
}

// refuse makes the refusal and complains of it, loudly now and then.
func (n *Node) refuse(server string, m record.Member, b breach, why string) error {
	r := &refusal{b, fmt.Sprintf("voter %s was %s: %s; %s", server, b, why, b.remedy(m))}
	n.mu.Lock()
	last, said := n.complained[server+string(b)]
	loud := !said || time.Since(last) > complainEvery
	if loud {
		n.complained[server+string(b)] = time.Now()
	}
	n.refusals[server] = refused{r.why, time.Now()}
	n.mu.Unlock()
	if loud {
		n.cfg.Log.Error("a voter is refused", "server", server, "breach", string(b), "why", why, "do", b.remedy(m))
	}
	return r
}

// refusedBy believes what is known of the server rather than the reason that it gives: one that was wiped may know neither this voter nor that it was.
func (n *Node) refusedBy(server string, r helloReply) {
	if b, why := n.memory.of(server).judge(r.Claim); b != "" {
		m, _ := n.voterOf(server)
		_ = n.refuse(server, m.Member, b, why) // the connection has failed already
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refusals[server] = refused{r.Error, time.Now()}
}

// apart says of the voters that were refused, or have refused, lately, or that have not joined yet, why, by name.
func (n *Node) apart() map[string]string {
	out := map[string]string{}
	if f := n.raft.GetConfiguration(); f.Error() == nil {
		for _, m := range n.notJoined(f.Configuration()) {
			out[m.Name] = fmt.Sprintf("enrolled anew as %s, it has not joined yet", m.ServerID)
		}
	}
	r, _ := n.Record()
	for _, m := range r.Members {
		if m.Lost {
			out[m.Name] = "given up when this cluster went on without it; " + wiped.remedy(m)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for server, r := range n.refusals {
		if time.Since(r.at) > refusedFor {
			delete(n.refusals, server)
		} else if p, ok := n.voterOf(server); ok {
			out[p.Name] = r.why
		}
	}
	return out
}

// setVoid ends this voter's part in the cluster: it neither votes nor campaigns nor leads any more, in this life and all later ones.
func (n *Node) setVoid(b breach, why, by string) {
	news, err := n.memory.setVoid(Void{string(b), why, by, time.Now().UTC()})
	if !news {
		return
	}
	n.voided.Store(true)
	n.cfg.Log.Error("this voter is void: it votes no more", "breach", string(b), "why", why, "by", by, "stored", err == nil, "error", err)
	n.wake()
	n.group.seal()
}

// Void returns why this voter is void, by what another one has said; nil: it is not.
func (n *Node) Void() *Void { return n.memory.void() }
